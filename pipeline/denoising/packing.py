"""Where each item's tokens lie when several items share one forward. Pure: no weights, no device.

An item brings image tokens (its patches) and caption tokens, each padded to a multiple of 32 with
pads that the model has learned. The image rows of all items form one packed sequence for the noise
refiner; image and caption rows of one item are neighbours in the joint sequence of the main layers.

A bucket rounds a forward's shape up, so that few shapes are recorded. Rows that nobody owns lie at
the end of both sequences, an item of their own; an item without company has none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import gcd

from pipeline.denoising.cost import SEQUENCE_MULTIPLE, pad_tokens


@dataclass(frozen=True)
class SharingLimits:
    """How far items share a forward."""

    solo_rows: int
    """An item of so many tokens fills the device, and has a forward of its own."""
    max_rows: int
    """Tokens of a shared forward."""


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
class Bucket:
    """The shape of a forward."""

    image_rows: int
    caption_rows: int
    num_items: int
    """Items, that of the unowned rows counted."""
    max_length: int
    """Rows of the longest item in the joint sequence, or more."""

    @property
    def joint_rows(self) -> int:
        """Rows of the main layers' sequence."""
        return self.image_rows + self.caption_rows


@dataclass(frozen=True)
class PackedLayout:
    """The two packed sequences of one forward."""

    shapes: tuple[ItemShape, ...]
    bucket: Bucket

    @cached_property
    def image_starts(self) -> tuple[int, ...]:
        """Where each item starts in the noise refiner's sequence."""
        return _starts([shape.num_image_rows for shape in self.shapes])

    @cached_property
    def joint_starts(self) -> tuple[int, ...]:
        """Where each item starts in the main layers' sequence."""
        return _starts([shape.num_joint_rows for shape in self.shapes])

    @cached_property
    def caption_starts(self) -> tuple[int, ...]:
        """Where each item's caption starts among the captions."""
        return _starts([shape.num_caption_rows for shape in self.shapes])

    @cached_property
    def image_lengths(self) -> tuple[int, ...]:
        """Rows of the bucket's items in the noise refiner's sequence."""
        lengths = [shape.num_image_rows for shape in self.shapes]
        return _fill(lengths, self.bucket.num_items, self.bucket.image_rows)

    @cached_property
    def joint_lengths(self) -> tuple[int, ...]:
        """Rows of the bucket's items in the main layers' sequence."""
        lengths = [shape.num_joint_rows for shape in self.shapes]
        return _fill(lengths, self.bucket.num_items, self.bucket.joint_rows)

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
        return slice(start, start + self.shapes[index].num_joint_rows)

    def joint_patch_rows(self, index: int) -> slice:
        """Rows of an item's patches in the main layers' sequence."""
        start = self.joint_starts[index]
        return slice(start, start + self.shapes[index].num_patches)

    def join_index(self) -> list[int]:
        """For each joint row, its place in image rows followed by caption rows."""
        num_images = self.bucket.image_rows
        order: list[int] = []
        for index, shape in enumerate(self.shapes):
            image, caption = self.image_starts[index], num_images + self.caption_starts[index]
            order += range(image, image + shape.num_image_rows)
            order += range(caption, caption + shape.num_caption_rows)
        owned_images = sum(shape.num_image_rows for shape in self.shapes)
        owned_captions = sum(shape.num_caption_rows for shape in self.shapes)
        order += range(owned_images, num_images)
        order += range(num_images + owned_captions, self.bucket.joint_rows)
        return order


@dataclass(frozen=True)
class BucketGrid:
    """How coarsely shapes are rounded up; 0 keeps them as they are."""

    image_rows: int = 0
    caption_rows: int = 0

    def lay_out(self, shapes: Sequence[ItemShape]) -> PackedLayout:
        """Lay items out in the smallest bucket that holds them."""
        image_rows = sum(shape.num_image_rows for shape in shapes)
        caption_rows = sum(shape.num_caption_rows for shape in shapes)
        longest = max(shape.num_joint_rows for shape in shapes)
        if not self.image_rows:
            exact = Bucket(image_rows, caption_rows, len(shapes), longest)
            return PackedLayout(tuple(shapes), exact)
        if len(shapes) == 1:
            # Few rows cost about as many reads of the weights as many, so rows of nobody cost most
            # here. The empty item beside it keeps to the kernels that several items have.
            return PackedLayout(tuple(shapes), Bucket(image_rows, caption_rows, 2, longest))
        image_rows = _round_up(image_rows, self.image_rows)
        caption_rows = _round_up(caption_rows, self.caption_rows)
        num_items = 1 << (len(shapes) - 1).bit_length()
        # The unowned rows are an item too, and may be the longest.
        longest = _round_up(max(longest, self.image_rows + self.caption_rows), 512)
        bucket = Bucket(image_rows, caption_rows, num_items + 1, longest)
        return PackedLayout(tuple(shapes), bucket)

    def row_counts(self, limits: SharingLimits) -> tuple[int, ...]:
        """Return the numbers of rows that a shared forward may multiply, in ascending order."""
        image_rows = self.image_rows or SEQUENCE_MULTIPLE
        caption_rows = self.caption_rows or SEQUENCE_MULTIPLE
        multiple = gcd(image_rows, caption_rows)
        most = limits.max_rows + image_rows + caption_rows
        alone = range(SEQUENCE_MULTIPLE, limits.solo_rows + 1, SEQUENCE_MULTIPLE)
        return tuple(sorted({*alone, *range(multiple, most + 1, multiple)}))


def group_forwards(joint_rows: Sequence[int], limits: SharingLimits) -> list[tuple[int, ...]]:
    """Choose which items share a forward, in the order given.

    An item that fills the device goes alone, so that it has the shape that it has alone. The others
    share forwards.

    Returns:
        Indices into `joint_rows`, each once.
    """
    alone = [(index,) for index, rows in enumerate(joint_rows) if rows >= limits.solo_rows]
    shared: list[list[int]] = []
    room = 0
    for index, rows in enumerate(joint_rows):
        if rows >= limits.solo_rows:
            continue
        if not shared or rows > room:
            shared.append([])
            room = limits.max_rows
        shared[-1].append(index)
        room -= rows
    return [tuple(group) for group in shared] + alone


def _starts(lengths: Sequence[int]) -> tuple[int, ...]:
    return tuple(accumulate(lengths[:-1], initial=0))


def _fill(lengths: Sequence[int], num_items: int, num_rows: int) -> tuple[int, ...]:
    """Add empty items, and last one of the rows that nobody owns."""
    if len(lengths) == num_items:
        return tuple(lengths)
    empty = num_items - len(lengths) - 1
    return (*lengths, *(0,) * empty, num_rows - sum(lengths))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
