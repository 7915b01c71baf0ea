import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import PlacementError
from cluster.labels import build_label_selector, find_mismatches, may_meet, parse_rule
from cluster.profiles import H800

RULES = st.sampled_from(["a", "b", "!a", "!b", "in(a,b)", "in(b,c)", "!in(a,b)", "!in(b,c)"])


def test_one_accelerator_is_a_plain_value() -> None:
    selector = build_label_selector(H800, ["H200"])
    assert selector == {"pool": "h800", "ray.io/accelerator-type": "H200"}


def test_several_accelerators_are_listed_without_spaces() -> None:
    selector = build_label_selector(H800, ["H800", "H100"])
    assert selector["ray.io/accelerator-type"] == "in(H800,H100)"


@pytest.mark.parametrize("rule", ["in(a, b)", "!in(a, b)", "a b", "", "in()", "in(a,)", "-a"])
def test_a_rule_that_ray_would_misread_is_refused(rule: str) -> None:
    with pytest.raises(PlacementError, match="without spaces"):
        parse_rule(rule)


def test_an_accelerator_whose_name_has_a_space_is_refused() -> None:
    with pytest.raises(PlacementError, match="got 'RTX 4090'"):
        build_label_selector(H800, ["RTX 4090"])


@pytest.mark.parametrize(
    ("rule", "labels", "num_mismatches"),
    [
        ("a", {"pool": "a"}, 0),
        ("a", {"pool": "b"}, 1),
        ("a", {}, 1),
        ("!a", {}, 0),
        ("in(a,b)", {"pool": "b"}, 0),
        ("!in(a,b)", {"pool": "b"}, 1),
        ("!in(a,b)", {"pool": "c"}, 0),
    ],
)
def test_a_node_matches_as_in_ray(rule: str, labels: dict[str, str], num_mismatches: int) -> None:
    assert len(find_mismatches({"pool": rule}, labels)) == num_mismatches


@given(RULES, RULES)
def test_two_selectors_may_meet_exactly_where_some_node_matches_both(one: str, other: str) -> None:
    values: list[dict[str, str]] = [{}, *({"k": value} for value in "abcd")]
    matches = [
        not find_mismatches({"k": one}, labels) and not find_mismatches({"k": other}, labels)
        for labels in values
    ]
    assert may_meet({"k": one}, {"k": other}) is any(matches)


def test_selectors_of_different_labels_may_meet() -> None:
    assert may_meet({"pool": "a"}, {"zone": "b"})
