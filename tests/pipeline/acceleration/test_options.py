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
    ("capability", "blocks"),
    [(None, BlockKernels.MODULES), ((8, 6), BlockKernels.FUSED), ((9, 0), BlockKernels.FUSED)],
)
def test_auto_chooses_blocks_by_machine_and_never_float8(
    capability: tuple[int, int] | None, blocks: BlockKernels
) -> None:
    chosen = choose_for_capability(AccelerationOptions(), capability)

    assert chosen == Acceleration(blocks, Precision.BFLOAT16)


def test_layers_that_stay_in_bfloat16_are_passed_on() -> None:
    options = AccelerationOptions(precision="float8", bfloat16_layers=("layers.0.*",))

    assert choose_for_capability(options, (8, 9)).bfloat16_layers == ("layers.0.*",)


@pytest.mark.parametrize(
    ("options", "capability", "message"),
    [
        (AccelerationOptions(blocks="magic"), (9, 0), "one of modules, fused, got 'magic'"),
        (AccelerationOptions(precision="int3"), (9, 0), "one of bfloat16, float8, got 'int3'"),
        (AccelerationOptions(blocks="fused"), None, "compute capability 8.0, got a CPU"),
        (AccelerationOptions(precision="float8"), None, "needs blocks 'fused', got 'modules'"),
        (AccelerationOptions(precision="float8"), (8, 6), "compute capability 8.9, got 8.6"),
    ],
)
def test_what_cannot_run_is_refused(
    options: AccelerationOptions, capability: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(AccelerationUnavailableError, match=message):
        choose_for_capability(options, capability)
