"""Ray's node labels: selectors, and whether a node matches.

The grammar is Ray's (`ray/_private/label_utils.py`): `v`, `!v`, `in(a,b)`, `!in(a,b)`. A space
inside the brackets makes Ray drop every value after the first without a word, so here it is an
error.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from cluster.errors import PlacementError
from cluster.profiles import GpuProfile

POOL_LABEL: Final = "pool"
ACCELERATOR_LABEL: Final = "ray.io/accelerator-type"

_VALUE: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_SELECTOR: Final = re.compile(rf"(!?)(?:({_VALUE})|in\(({_VALUE}(?:,{_VALUE})*)\))")


def build_label_selector(profile: GpuProfile, accelerators: Sequence[str] = ()) -> dict[str, str]:
    """Select the nodes labelled with the profile's name and, if given, one of the accelerators.

    Raises:
        PlacementError: If a name cannot be a label's value.
    """
    selector = {POOL_LABEL: _any_of([profile.name])}
    if accelerators:
        selector[ACCELERATOR_LABEL] = _any_of(accelerators)
    return selector


def _any_of(values: Sequence[str]) -> str:
    rule = values[0] if len(values) == 1 else f"in({','.join(values)})"
    parse_rule(rule)
    return rule


def parse_rule(rule: str) -> tuple[bool, frozenset[str]]:
    """Return whether the rule is positive, and its values.

    Raises:
        PlacementError: If the rule is not in Ray's grammar, or has a space.
    """
    found = _SELECTOR.fullmatch(rule)
    if found is None:
        raise PlacementError(
            f"a label rule must be v, !v, in(a,b) or !in(a,b) without spaces, got {rule!r}"
        )
    negation, value, values = found.groups()
    return not negation, frozenset([value] if value else values.split(","))


def find_mismatches(selector: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    """Say which rules a node's labels break; a label that is missing meets every negation."""
    return [
        f"label {key} must be {rule}, is {labels.get(key, 'missing')}"
        for key, rule in selector.items()
        if not _is_met(rule, labels.get(key))
    ]


def _is_met(rule: str, value: str | None) -> bool:
    is_positive, values = parse_rule(rule)
    return (value in values) is is_positive


def may_meet(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether some node could match both selectors."""
    return all(_overlap(one[key], other[key]) for key in one.keys() & other.keys())


def _overlap(one: str, other: str) -> bool:
    is_one_positive, ones = parse_rule(one)
    is_other_positive, others = parse_rule(other)
    if is_one_positive and is_other_positive:
        return bool(ones & others)
    if is_one_positive:
        return bool(ones - others)
    return not is_other_positive or bool(others - ones)
