from dataclasses import replace

import pytest

from cluster.errors import PlacementError
from cluster.profiles import CONSUMER_16GB, get_profile


def test_a_profile_is_found_by_its_name() -> None:
    assert get_profile("consumer-16gb") is CONSUMER_16GB


def test_an_unknown_profile_is_named_beside_the_known() -> None:
    with pytest.raises(PlacementError, match=r"one of \['consumer-16gb', 'cpu', 'h800'\], got 'a'"):
        get_profile("a")


def test_a_bound_on_memory_must_be_positive() -> None:
    with pytest.raises(PlacementError, match="memory_gib must be positive, got 0"):
        replace(CONSUMER_16GB, memory_gib=0)
