"""Endless training batches, made by worker processes: drawings as numbers, captions as tokens.

The n-th batch of a rank depends on the seed alone, not on how many workers there are.
"""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from pipeline.embedded.scenes.captions import Language, write_caption
from pipeline.embedded.scenes.layout import place
from pipeline.embedded.scenes.rendering import Drawing, describe
from pipeline.embedded.scenes.sampling import sample_scene
from pipeline.embedded.scenes.scene import Scene
from pipeline.embedded.scenes.split import is_held_out
from pipeline.embedded.training.coupling import NUM_CHOICES, Choices
from pipeline.embedded.training.tokenizer import tokenize_prompt

PATCH_PIXELS: Final = 16
PATCH_LATENTS: Final = 2
MIN_PATCHES: Final = 8
MAX_PATCHES: Final = 32
NATIVE_PATCHES: Final = 16
_NATIVE_SHARE: Final = 0.45
_LARGEST_SHARE: Final = 0.2
_CAPTION_LENGTHS: Final = (32,) * 8 + (64,) * 12 + (96,)
_FILLERS: Final = {32: (0,), 64: (0, 0, 0, 0, 1, 2), 96: (4, 5, 6, 7, 8)}
"""Clauses that say nothing about the scene, by caption length."""

_LANGUAGES: Final = tuple(Language)
_TEXT_SHARE: Final = 0.3
"""Of scenes that must hold a text, beside those that do by chance: strokes take longest."""

T = TypeVar("T")


@dataclass(frozen=True)
class BatchShape:
    """What all pictures of a batch have in common."""

    height: int
    width: int
    """Pixels."""
    caption_length: int
    """Tokens after padding."""
    count: int


@dataclass(frozen=True)
class CaptionedBatch:
    """Scenes and the tokens of a caption of each."""

    shape: BatchShape
    drawing: Drawing
    token_ids: NDArray[np.int64]
    """[B, L], padded with 0."""
    lengths: NDArray[np.int64]
    """[B]."""
    choices: NDArray[np.float32]
    """[B, NUM_CHOICES], what decided where things stand."""


def shape_of_batch(number: int, seed: int, max_tokens: int) -> BatchShape:
    """Choose the shape of the n-th batch: often the native or largest size, else any."""
    rng = random.Random(f"{seed}/shape/{number}")
    length = rng.choice(_CAPTION_LENGTHS)
    rows, columns = _choose_size(rng)
    count = max_tokens // (rows * columns + length)
    # Slices of 64 keep the compiled encoder to one shape, and matrix products on fast kernels.
    multiple = 64 if count >= 64 else 8
    count = max(1, count // multiple * multiple)
    return BatchShape(rows * PATCH_PIXELS, columns * PATCH_PIXELS, length, count)


def _choose_size(rng: random.Random) -> tuple[int, int]:
    """Return rows and columns of patches."""
    drawn = rng.random()
    if drawn < _NATIVE_SHARE:
        return NATIVE_PATCHES, NATIVE_PATCHES
    if drawn < _NATIVE_SHARE + _LARGEST_SHARE:
        return MAX_PATCHES, MAX_PATCHES
    return _any_size(rng)


def _any_size(rng: random.Random) -> tuple[int, int]:
    while True:
        rows, columns = (
            round(MIN_PATCHES * (MAX_PATCHES / MIN_PATCHES) ** rng.random()) for _ in range(2)
        )
        if max(rows, columns) <= 2 * min(rows, columns):
            return rows, columns


def make_drawing(number: int, rank: int, seed: int, max_pixels: int) -> tuple[BatchShape, Drawing]:
    """Make the n-th batch of pictures without captions."""
    shape = shape_of_batch(number, seed, 1)
    count = max(1, max_pixels // (shape.height * shape.width))
    shape = BatchShape(shape.height, shape.width, 0, count)
    rng = random.Random(f"{seed}/{rank}/drawing/{number}")
    scenes = [sample_scene(rng) for _ in range(count)]
    return shape, describe(scenes, [place(s, shape.height, shape.width, rng) for s in scenes])


class CaptionedBatchMaker:
    """Makes batches of scenes that are not held out. Lives in a worker process."""

    def __init__(self, tokenizer_folder: Path, rank: int, seed: int) -> None:
        self._tokenizer_folder = tokenizer_folder
        self._rank = rank
        self._seed = seed

    def make(self, number: int, max_tokens: int) -> CaptionedBatch:
        """Make the n-th batch of this rank."""
        shape = shape_of_batch(number, self._seed, max_tokens)
        rng = random.Random(f"{self._seed}/{self._rank}/captions/{number}")
        token_ids = np.zeros((shape.count, shape.caption_length), dtype=np.int64)
        tokenizer = _load_tokenizer(self._tokenizer_folder)
        scenes: list[Scene] = []
        lengths: list[int] = []
        while len(scenes) < shape.count:
            scene = _sample_training_scene(rng)
            num_fillers = rng.choice(_FILLERS[shape.caption_length])
            caption = write_caption(scene, rng.choice(_LANGUAGES), rng, num_fillers=num_fillers)
            tokens = tokenize_prompt(tokenizer, caption)
            is_longer = len(tokens) > shape.caption_length
            is_shorter = len(tokens) <= shape.caption_length - 32
            if is_longer or is_shorter or is_held_out(scene):
                continue
            token_ids[len(scenes), : len(tokens)] = tokens
            scenes.append(scene)
            lengths.append(len(tokens))
        choices = [[rng.random() for _ in range(NUM_CHOICES)] for _ in scenes]
        placements = [
            place(scene, shape.height, shape.width, Choices(values))
            for scene, values in zip(scenes, choices, strict=True)
        ]
        return CaptionedBatch(
            shape,
            describe(scenes, placements),
            token_ids,
            np.array(lengths, dtype=np.int64),
            np.array(choices, dtype=np.float32),
        )


def _sample_training_scene(rng: random.Random) -> Scene:
    must_hold_text = rng.random() < _TEXT_SHARE
    while True:
        scene = sample_scene(rng)
        if not must_hold_text or any(not thing.is_shape for thing in scene.things):
            return scene


@cache
def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Workers:
    """Processes that make batches.

    Forked, not spawned: start them before the first use of a GPU, and they start at once.
    """

    def __init__(self, count: int) -> None:
        self._pool = get_context("fork").Pool(count)
        self._max_pending = 3 * count

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()

    def run(self, make: Callable[[int], T], *, first: int = 0) -> Iterator[T]:
        """Yield `make(first)`, `make(first + 1)`, ... in order, a bounded number made ahead."""
        pending: deque[AsyncResult[T]] = deque()
        for number in itertools.count(first):
            pending.append(self._pool.apply_async(make, (number,)))
            if len(pending) == self._max_pending:
                yield pending.popleft().get()
