"""Encoded batches, kept on the device and trained on several times, with other noise each time."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from pipeline.embedded.training.trajectories import Walk

T = TypeVar("T")


@dataclass
class EncodedBatch:
    """Pictures of one size, and their captions."""

    latents: Tensor
    """[B, 16, h, w], bfloat16."""
    coarse: Tensor
    """Those of the pictures at half the size, enlarged to the same shape."""
    token_ids: Tensor
    lengths: Tensor
    choices: Tensor
    """[B, NUM_CHOICES], see `coupling`."""
    walk: Walk | None = None
    """Where the first pictures of the batch are on the network's own way to them."""


class Shelf(Generic[T]):
    """Holds batches; hands each out `uses` times, in an order that all processes share."""

    def __init__(
        self,
        batches: Iterator[T],
        encode: Callable[[T], EncodedBatch],
        *,
        capacity: int,
        uses: int,
        seed: str,
    ) -> None:
        self._batches = batches
        self._encode = encode
        self._capacity = capacity
        self._uses = uses
        self._rng = random.Random(seed)
        self._held: list[tuple[EncodedBatch, int]] = []
        self.taken = 0

    def take(self) -> EncodedBatch:
        """Return a batch. The shelf fills up over many steps, not before them."""
        has_room = len(self._held) < self._capacity
        if not self._held or (has_room and self._rng.random() < 3 / self._uses):
            self._held.append((self._fetch(), 0))
            place = len(self._held) - 1
        else:
            place = self._rng.randrange(len(self._held))
        batch, uses = self._held[place]
        if uses + 1 >= self._uses:
            self._held[place] = (self._fetch(), 0)
        else:
            self._held[place] = (batch, uses + 1)
        return batch

    def _fetch(self) -> EncodedBatch:
        self.taken += 1
        return self._encode(next(self._batches))
