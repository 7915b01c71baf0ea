"""Where each item's tokens lie when several items share one forward. Pure: no weights, no device.

An item brings image tokens (its patches) and caption tokens, each padded to a multiple of 32 with
pads that the model has learned. The image rows of all items form one packed sequence for the noise
refiner; image and caption rows of one item are neighbours in the joint sequence of the main layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.denoising.cost import pad_tokens


@dataclass(frozen=True)
class ItemShape:
    """An item's tokens."""

    patch_rows: int
    patch_cols: int
    num_caption_rows: int
    """Caption tokens, the model's own padding counted."""

    @property
    def num_patches(self) -> int:
        """Image tokens without padding."""
        return self.patch_rows * self.patch_cols

    @property
    def num_image_rows(self) -> int:
        """Image tokens, the model's own padding counted."""
        return pad_tokens(self.num_patches)

    @property
    def num_joint_rows(self) -> int:
        """Tokens of image and caption together."""
        return self.num_image_rows + self.num_caption_rows


@dataclass(frozen=True)
class PackedLayout:
    """The two packed sequences of one forward."""

    shapes: tuple[ItemShape, ...]

    @cached_property
    def image_lengths(self) -> tuple[int, ...]:
        """Each item's rows in the noise refiner's sequence."""
        return tuple(shape.num_image_rows for shape in self.shapes)

    @cached_property
    def joint_lengths(self) -> tuple[int, ...]:
        """Each item's rows in the main layers' sequence."""
        return tuple(shape.num_joint_rows for shape in self.shapes)

    @cached_property
    def image_starts(self) -> tuple[int, ...]:
        """Where each item starts in the noise refiner's sequence."""
        return _starts(self.image_lengths)

    @cached_property
    def joint_starts(self) -> tuple[int, ...]:
        """Where each item starts in the main layers' sequence."""
        return _starts(self.joint_lengths)

    @property
    def num_joint_rows(self) -> int:
        """Rows of the main layers' sequence."""
        return sum(self.joint_lengths)

    def image_pad_rows(self, index: int) -> slice:
        """Rows of an item's learned image pads in the noise refiner's sequence."""
        start, shape = self.image_starts[index], self.shapes[index]
        return slice(start + shape.num_patches, start + shape.num_image_rows)

    def patch_rows(self, index: int) -> slice:
        """Rows of an item's patches in the noise refiner's sequence."""
        start = self.image_starts[index]
        return slice(start, start + self.shapes[index].num_patches)

    def joint_rows(self, index: int) -> slice:
        """All rows of an item in the main layers' sequence."""
        start = self.joint_starts[index]
        return slice(start, start + self.joint_lengths[index])

    def joint_patch_rows(self, index: int) -> slice:
        """Rows of an item's patches in the main layers' sequence."""
        start = self.joint_starts[index]
        return slice(start, start + self.shapes[index].num_patches)


def group_forwards(
    joint_rows: Sequence[int], *, solo_rows: int, max_rows: int
) -> list[tuple[int, ...]]:
    """Choose which items share a forward, in the order given.

    An item of `solo_rows` or more fills the device and goes alone, so that it has the shape that it
    has alone. The others share forwards of at most `max_rows`.

    Returns:
        Indices into `joint_rows`, each once.
    """
    alone = [(index,) for index, rows in enumerate(joint_rows) if rows >= solo_rows]
    shared: list[list[int]] = []
    room = 0
    for index, rows in enumerate(joint_rows):
        if rows >= solo_rows:
            continue
        if not shared or rows > room:
            shared.append([])
            room = max_rows
        shared[-1].append(index)
        room -= rows
    return [tuple(group) for group in shared] + alone


def _starts(lengths: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(lengths[:index]) for index in range(len(lengths)))
