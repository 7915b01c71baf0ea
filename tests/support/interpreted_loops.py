"""For tests of Triton's kernels, which its interpreter runs where there is no GPU."""

import os
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import numpy as np
import pytest
import torch

P = ParamSpec("P")
T = TypeVar("T")
_HAS_GPU: Final = torch.cuda.is_available()
_IS_INTERPRETED: Final = not _HAS_GPU and os.environ.get("TRITON_INTERPRET") == "1"

RUNS_KERNELS: Final = pytest.mark.skipif(
    not (_HAS_GPU or _IS_INTERPRETED), reason="without a GPU, set TRITON_INTERPRET=1"
)
INTERPRETED_LOOPS: Final = (
    pytest.mark.skipif(
        _IS_INTERPRETED and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
        reason="Triton's interpreter counts by arrays of one element, which NumPy refuses from 2.4",
    ),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
)


def interprets_loops(test: Callable[P, T]) -> Callable[P, T]:
    """Mark a test whose kernels loop as often as an argument says."""
    for mark in INTERPRETED_LOOPS:
        test = mark(test)
    return test
