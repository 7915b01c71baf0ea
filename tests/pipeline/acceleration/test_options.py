"""A name chooses, or is refused with the rule."""

import pytest

from pipeline.acceleration.options import (
    Acceleration,
    AccelerationOptions,
    BlockKernels,
    Precision,
    choose_for_capability,
)
from pipeline.errors import AccelerationUnavailableError


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [
        (None, BlockKernels.MODULES),
        ((8, 6), BlockKernels.MODULES),
        ((8, 9), BlockKernels.MODULES),
        ((9, 0), BlockKernels.FUSED),
    ],
)
def test_auto_chooses_only_what_was_measured(
    capability: tuple[int, int] | None, kernels: BlockKernels
) -> None:
    chosen = choose_for_capability(AccelerationOptions(), capability)

    assert chosen == Acceleration(kernels, Precision.BFLOAT16)


def test_layers_that_stay_in_bfloat16_are_passed_on() -> None:
    options = AccelerationOptions(
        kernels="fused", precision="float8", bfloat16_layers=("layers.0.*",)
    )

    assert choose_for_capability(options, (8, 9)).bfloat16_layers == ("layers.0.*",)


@pytest.mark.parametrize(
    ("options", "capability", "message"),
    [
        (AccelerationOptions(kernels="magic"), (9, 0), "one of modules, fused, got 'magic'"),
        (
            AccelerationOptions(precision="int3"),
            (9, 0),
            "one of bfloat16, float8, int8, int8_weights, got 'int3'",
        ),
        (AccelerationOptions(kernels="fused"), None, "compute capability 8.0, got a CPU"),
        (AccelerationOptions(precision="float8"), None, "needs kernels 'fused', got 'modules'"),
        (
            AccelerationOptions(precision="int8_weights"),
            (8, 6),
            "'int8_weights' needs kernels 'fused', got 'modules'",
        ),
        (
            AccelerationOptions(kernels="fused", precision="float8"),
            (8, 6),
            "compute capability 8.9, got 8.6",
        ),
        (
            AccelerationOptions(kernels="fused", precision="int8"),
            (8, 9),
            "'int8' needs a GPU of compute capability 9.0, got 8.9; 'int8_weights' needs 8.0",
        ),
    ],
)
def test_what_cannot_run_is_refused(
    options: AccelerationOptions, capability: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(AccelerationUnavailableError, match=message):
        choose_for_capability(options, capability)
