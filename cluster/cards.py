"""Whether what may share a card fits on it.

A fraction of a GPU is a number to Ray's scheduler, not a wall around memory: any replicas whose
fractions sum to at most one may land on the same card, and then their peaks add up there.
"""

from collections.abc import Iterator, Sequence

from cluster.errors import PlacementError
from cluster.labels import may_meet
from cluster.placement import ReplicaNeed

_ROUNDING = 1e-9

Company = tuple[ReplicaNeed, ...]


def check_cards(needs: Sequence[ReplicaNeed]) -> None:
    """Check every company that Ray could put on one card.

    Raises:
        PlacementError: If the peaks of one sum to more than the card's profile allows.
    """
    on_gpus = [need for need in needs if need.num_gpus > 0]
    for company in _find_companies(on_gpus, ()):
        total = sum(need.memory_peak_gib for need in company)
        bound = min(need.profile.memory_gib for need in company)
        if total > bound + _ROUNDING:
            raise PlacementError(
                f"replicas that may share a card must fit in {bound:g} GiB, "
                f"got {total:.1f} GiB: {_describe(company)}"
            )


def _find_companies(needs: Sequence[ReplicaNeed], company: Company) -> Iterator[Company]:
    if company:
        yield company
    for index, need in enumerate(needs):
        if _may_join(need, company):
            yield from _find_companies(needs[index:], (*company, need))


def _may_join(need: ReplicaNeed, company: Company) -> bool:
    if not company:
        return True
    taken = sum(other.num_gpus for other in company)
    is_room = taken + need.num_gpus <= 1 + _ROUNDING
    is_more = sum(other is need for other in company) < need.max_replicas
    return (
        is_room
        and is_more
        and all(may_meet(need.label_selector, other.label_selector) for other in company)
    )


def _describe(company: Company) -> str:
    names = {need.deployment: need for need in company}
    return ", ".join(
        f"{sum(other is need for other in company)} x {name} "
        f"({need.memory_peak_gib:g} GiB, {need.num_gpus:g} GPU)"
        for name, need in names.items()
    )
