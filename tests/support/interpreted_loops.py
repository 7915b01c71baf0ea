"""For tests whose kernels loop as often as an argument says."""

import os
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import numpy as np
import pytest
import torch

P = ParamSpec("P")
T = TypeVar("T")
_IS_INTERPRETED: Final = not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") == "1"

INTERPRETED_LOOPS: Final = (
    pytest.mark.skipif(
        _IS_INTERPRETED and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
        reason="Triton's interpreter counts by arrays of one element, which NumPy refuses from 2.4",
    ),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
)


def interprets_loops(test: Callable[P, T]) -> Callable[P, T]:
    """Mark a test with all of them."""
    for mark in INTERPRETED_LOOPS:
        test = mark(test)
    return test
