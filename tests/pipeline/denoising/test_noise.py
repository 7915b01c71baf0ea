"""Noise drawn ahead is the noise that is drawn when asked."""

import time
from threading import Event

import pytest
import torch
from torch import Tensor

from pipeline.denoising import noise
from pipeline.denoising.noise import NoiseAhead, NoiseSource
from pipeline.latents import draw_noise
from pipeline.request import ImageSize
from tests.pipeline.denoising.conftest import BuildLoop
from tests.pipeline.denoising.observers import Recorder
from tests.pipeline.denoising.tiny import build_request

SIZE = ImageSize(64, 96)


def test_noise_drawn_ahead_has_the_bytes_of_its_seed() -> None:
    source = NoiseSource(torch.device("cpu"))
    begun = [source.begin(SIZE, seed=seed) for seed in (7, 2**40)]

    drawn = [each.take() for each in begun]

    expected = [draw_noise(SIZE, seed=seed)[0] for seed in (7, 2**40)]
    assert all(torch.equal(one, other) for one, other in zip(drawn, expected, strict=True))
    source.close()


def test_noise_behind_other_pictures_is_drawn_by_who_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, may_end = NoiseSource(torch.device("cpu")), Event()

    def draw_first_slowly(size: ImageSize, *, seed: int, pins: bool = False) -> Tensor:
        if seed == 1:
            may_end.wait(60)
        return draw_noise(size, seed=seed)

    monkeypatch.setattr(noise, "draw_noise", draw_first_slowly)
    first, second = (source.begin(SIZE, seed=seed) for seed in (1, 2))

    assert torch.equal(second.take(), draw_noise(SIZE, seed=2)[0])

    may_end.set()
    assert torch.equal(first.take(), draw_noise(SIZE, seed=1)[0])
    source.close()


def test_noise_that_lacked_memory_is_drawn_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    source, draws = NoiseSource(torch.device("cpu")), list[int]()

    def fail_once(size: ImageSize, *, seed: int, pins: bool = False) -> Tensor:
        draws.append(seed)
        if len(draws) == 1:
            raise torch.OutOfMemoryError
        return draw_noise(size, seed=seed)

    monkeypatch.setattr(noise, "draw_noise", fail_once)
    begun = source.begin(SIZE, seed=1)
    while not draws:
        time.sleep(0.001)

    assert torch.equal(begun.take(), draw_noise(SIZE, seed=1)[0])
    source.close()


def test_a_source_that_is_closed_draws_nothing() -> None:
    source = NoiseSource(torch.device("cpu"))
    source.close()

    with pytest.raises(RuntimeError, match="shutdown"):
        source.begin(SIZE, seed=0)


def test_only_a_picture_that_finds_the_loop_idle_has_its_noise_drawn_ahead(
    build_loop: BuildLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = NoiseSource.begin

    def note(source: NoiseSource, size: ImageSize, *, seed: int) -> NoiseAhead:
        begun.append(seed)
        return begin(source, size, seed=seed)

    monkeypatch.setattr(NoiseSource, "begin", note)
    loop, first, second = build_loop(), Recorder(), Recorder()
    first.at_step[1] = lambda: loop.submit(build_request("second", seed=2), second)
    loop.submit(build_request("first", seed=1), first)
    first.result()
    second.result()

    loop.denoise(build_request("third", seed=3))

    assert begun == [1, 3]
