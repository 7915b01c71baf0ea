"""Captions are named by content, and kept within a bound."""

from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.denoising.caching import ByteBoundedCache
from pipeline.denoising.captions import identify_caption
from tests.pipeline.denoising.tiny import draw_encoding


def test_equal_embeddings_have_one_key() -> None:
    embeds = draw_encoding(9).prompt_embeds

    assert identify_caption(embeds) == identify_caption(embeds.clone())


def test_another_value_type_or_shape_is_another_key() -> None:
    embeds = draw_encoding(8).prompt_embeds
    others = [embeds + 1e-6, embeds.to(torch.bfloat16), embeds.view(4, 64), embeds[:7]]

    assert len({identify_caption(each) for each in (embeds, *others)}) == 5


@given(st.lists(st.integers(1, 12), max_size=40))
def test_a_cache_stays_within_its_bytes(sizes: list[int]) -> None:
    cache: ByteBoundedCache[int, torch.Tensor] = ByteBoundedCache(max_bytes=20)
    for size in sizes:
        cache.get_or_make(size, partial(torch.zeros, size, dtype=torch.uint8))

    assert cache.held_bytes <= 20
    assert len(cache) == 0 or cache.held_bytes > 0


def test_what_was_used_last_is_kept() -> None:
    cache: ByteBoundedCache[str, torch.Tensor] = ByteBoundedCache(max_bytes=2)
    made: list[str] = []

    def make(key: str) -> torch.Tensor:
        made.append(key)
        return torch.zeros(1, dtype=torch.uint8)

    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get_or_make(key, partial(make, key))

    assert made == ["a", "b", "c", "b"]


def test_a_value_larger_than_the_cache_is_made_and_not_kept() -> None:
    cache: ByteBoundedCache[str, torch.Tensor] = ByteBoundedCache(max_bytes=3)

    value = cache.get_or_make("large", lambda: torch.zeros(4, dtype=torch.uint8))

    assert (value.nbytes, len(cache)) == (4, 0)


def test_what_was_made_elsewhere_is_kept_unless_there_is_one_already() -> None:
    cache: ByteBoundedCache[str, torch.Tensor] = ByteBoundedCache(max_bytes=3)
    for number in (1, 2):
        cache.keep("a", torch.full((1,), number, dtype=torch.uint8))
    cache.keep("large", torch.zeros(4, dtype=torch.uint8))

    value = cache.get_or_make("a", lambda: torch.zeros(1, dtype=torch.uint8))

    assert (int(value), len(cache), cache.held_bytes) == (1, 1, 1)
