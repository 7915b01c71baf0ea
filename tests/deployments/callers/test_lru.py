"""A cache bounded by bytes."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.lru import LruCache


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), max_size=100))
def test_the_bound_holds_and_the_sum_is_right(puts: list[tuple[int, int]]) -> None:
    cache: LruCache[int, int] = LruCache(100)
    for key, size in puts:
        cache.put(key, size, size)

    held = [value for key in range(10) if (value := cache.get(key)) is not None]
    assert cache.num_bytes == sum(held) <= 100


def test_what_was_used_least_recently_goes_first() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.put("a", 1, 1)
    cache.put("b", 2, 1)
    cache.get("a")
    cache.put("c", 3, 1)

    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert cache.num_evicted == 1


def test_a_value_larger_than_the_cache_is_not_held() -> None:
    cache: LruCache[str, int] = LruCache(10)
    cache.put("a", 1, 10)
    cache.put("b", 2, 11)

    assert [cache.get(key) for key in "ab"] == [1, None]
