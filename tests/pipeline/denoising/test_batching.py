"""Who is let in and who runs, on plain numbers."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.denoising.batching import (
    BatchingLimits,
    Candidate,
    Demand,
    HeldWork,
    admit,
    choose_batch,
    choose_offloads,
    due_time,
    is_turn,
)
from pipeline.errors import DeadlineError, ReplicaFullError
from pipeline.request import Priority

LIMITS = BatchingLimits(
    step_units=8.0, max_items=4, held_units=100.0, max_passed_over=5, paused_bytes=10
)

LARGE_LIMITS = replace(LIMITS, held_units=1000.0)

candidates_of_any_kind = st.builds(
    Candidate,
    id=st.uuids().map(str),
    step_units=st.floats(0.1, 30),
    priority=st.sampled_from(Priority),
    due_s=st.floats(0, 1000) | st.just(math.inf),
    arrival=st.integers(0, 10**6),
    passed_over=st.integers(0, 20),
)


def _candidate(name: str, arrival: int = 0, **changes: object) -> Candidate:
    plain = Candidate(name, 1.0, Priority.INTERACTIVE, due_s=50.0, arrival=arrival)
    return replace(plain, **changes)  # type: ignore[arg-type]


def _chosen(*candidates: Candidate, steps: int = 99) -> list[str]:
    return [candidate.id for candidate in choose_batch(candidates, LIMITS, steps_since_turn=steps)]


def test_interactive_goes_before_batch_that_is_due_earlier() -> None:
    batch = _candidate("batch", priority=Priority.BATCH, due_s=1.0, step_units=8.0)
    interactive = _candidate("interactive", due_s=99.0, step_units=8.0)

    assert _chosen(batch, interactive) == ["interactive"]


def _choose_at_one_unit_a_second(*candidates: Candidate) -> list[str]:
    chosen = choose_batch(candidates, LIMITS, steps_since_turn=99, now_s=10.0, rate_units_s=1.0)
    return [candidate.id for candidate in chosen]


@pytest.mark.parametrize(("deadline_s", "expected"), [(19.0, ["first"]), (21.0, ["first", "next"])])
def test_nobody_joins_who_would_make_another_miss_its_deadline(
    deadline_s: float, expected: list[str]
) -> None:
    first = _candidate("first", 0, due_s=1.0, steps_left=4, deadline_s=deadline_s)

    assert _choose_at_one_unit_a_second(first, _candidate("next", 1)) == expected


def test_a_deadline_that_cannot_be_kept_holds_up_nobody() -> None:
    lost = _candidate("lost", 0, due_s=1.0, steps_left=4, deadline_s=13.0)

    assert _choose_at_one_unit_a_second(lost, _candidate("next", 1)) == ["lost", "next"]


def test_of_a_burst_that_cannot_all_be_in_time_the_first_ones_are() -> None:
    """Steps take a tenth longer than the rate says."""
    held = {
        f"{index}": _candidate(
            f"{index}", index, due_s=6.0, step_units=0.15, steps_left=4, deadline_s=6.0
        )
        for index in range(24)
    }
    now_s, done = 0.0, 0
    while held and now_s < 6.0:
        chosen = choose_batch(
            list(held.values()), BatchingLimits(), steps_since_turn=0, now_s=now_s, rate_units_s=1.0
        )
        now_s += 1.1 * sum(each.step_units for each in chosen)
        for each in chosen:
            held[each.id] = replace(each, steps_left=each.steps_left - 1)
            if not held[each.id].steps_left:
                del held[each.id]
                done += now_s <= 6.0

    assert done >= 8  # of the 9 that fit one after another


def test_the_earliest_due_goes_first_within_a_priority() -> None:
    late, early = _candidate("late", 0, due_s=9.0), _candidate("early", 1, due_s=3.0)

    assert _chosen(late, early) == ["early", "late"]


def test_whoever_was_passed_over_too_often_goes_before_everyone() -> None:
    aged = _candidate("aged", priority=Priority.BATCH, due_s=math.inf, passed_over=7)

    assert _chosen(_candidate("urgent", due_s=0.0), aged) == ["aged", "urgent"]


def test_those_passed_over_together_do_not_have_their_turns_in_a_row() -> None:
    aged = [
        _candidate(f"{rank}", rank, priority=Priority.BATCH, passed_over=rank) for rank in (9, 8)
    ]
    urgent = [_candidate(f"urgent-{rank}", due_s=0.0) for rank in range(2)]

    assert _chosen(*aged, *urgent)[:2] == ["9", "urgent-0"]
    assert _chosen(*aged, *urgent, steps=4) == ["urgent-0", "urgent-1"]


def test_batch_work_joins_a_step_while_it_holds_interactive_work_up_by_little() -> None:
    urgent = _candidate("urgent", due_s=0.0, step_units=4.0)
    batch = [
        _candidate(f"batch-{rank}", rank, priority=Priority.BATCH, step_units=0.6)
        for rank in range(2)
    ]

    assert _chosen(urgent, *batch) == ["urgent", "batch-0"]
    assert _chosen(*batch) == ["batch-0", "batch-1"]


def test_a_deep_queue_is_worked_off_in_order() -> None:
    crowd = [_candidate(f"{rank}", rank, due_s=rank, passed_over=rank) for rank in range(40)]

    assert _chosen(*crowd) == ["0", "1", "2", "3"]


def test_a_forward_above_the_budget_runs_alone() -> None:
    large = _candidate("large", due_s=1.0, step_units=24.7)

    assert _chosen(large, _candidate("small", due_s=2.0)) == ["large"]


def test_a_small_one_joins_where_the_next_large_one_does_not_fit() -> None:
    first, large = _candidate("first", due_s=1.0), _candidate("large", due_s=2.0, step_units=7.5)

    assert _chosen(first, large, _candidate("small", due_s=3.0)) == ["first", "small"]


@given(st.lists(candidates_of_any_kind, min_size=1, max_size=20, unique_by=lambda each: each.id))
def test_a_step_stays_within_its_bounds(candidates: list[Candidate]) -> None:
    chosen = choose_batch(candidates, LIMITS, steps_since_turn=99)
    units = sum(candidate.step_units for candidate in chosen)

    assert 1 <= len(chosen) <= LIMITS.max_items
    assert len(chosen) == 1 or units <= LIMITS.step_units


@st.composite
def _crowds(draw: st.DrawFn) -> tuple[Candidate, int, list[list[Candidate]]]:
    """A batch request that never is due, and at each step a crowd of up to n that could win."""
    most = draw(st.integers(1, 8))
    size = draw(st.floats(0.1, 30))
    patient = _candidate("patient", priority=Priority.BATCH, due_s=math.inf, step_units=size)
    crowd = st.lists(
        candidates_of_any_kind, min_size=most, max_size=most, unique_by=lambda each: each.id
    )
    arrivals = draw(st.lists(crowd, min_size=1, max_size=3))
    return patient, most, arrivals


def _serve(
    held: dict[str, Candidate], limits: BatchingLimits, steps_since_turn: int
) -> tuple[dict[str, Candidate], int]:
    candidates = list(held.values())
    in_order = choose_batch(candidates, limits, steps_since_turn=steps_since_turn)
    chosen = {candidate.id for candidate in in_order}
    served = {
        name: replace(each, passed_over=0 if name in chosen else each.passed_over + 1)
        for name, each in held.items()
    }
    return served, 0 if is_turn(in_order, candidates) else steps_since_turn + 1


def _longest_wait(
    patient: Candidate, arrivals: list[list[Candidate]], num_steps: int
) -> tuple[int, int]:
    """Serve endless crowds: a newcomer replaces whoever was served.

    Returns how many are held, and the longest wait of the patient one.
    """
    held = {each.id: replace(each, passed_over=0) for each in (patient, *arrivals[0])}
    num_held, longest, steps_since_turn = len(held), 0, 0
    for step in range(num_steps):
        held, steps_since_turn = _serve(held, LIMITS, steps_since_turn)
        longest = max(longest, held["patient"].passed_over)
        crowd = arrivals[step % len(arrivals)]
        served = [name for name, each in held.items() if not each.passed_over and name != "patient"]
        for name, newcomer in zip(served, crowd, strict=False):
            del held[name]
            held[f"{newcomer.id}/{step}"] = replace(
                newcomer, id=f"{newcomer.id}/{step}", passed_over=0
            )
    return num_held, longest


@settings(max_examples=60, deadline=None)
@given(_crowds())
def test_nobody_is_passed_over_beyond_the_bound(
    crowds: tuple[Candidate, int, list[list[Candidate]]],
) -> None:
    patient, _, arrivals = crowds

    num_held, longest = _longest_wait(patient, arrivals, num_steps=150)

    assert longest <= (LIMITS.max_passed_over + 2) * (num_held + 1)


def test_batch_requests_have_their_turns_far_apart_however_many_wait() -> None:
    batch = [
        _candidate(f"batch-{rank}", rank, priority=Priority.BATCH, step_units=8.0)
        for rank in range(12)
    ]
    urgent = _candidate("urgent", due_s=0.0, step_units=8.0)
    held = {each.id: each for each in (*batch, urgent)}
    turns, steps_since_turn = [], 0
    for step in range(200):
        held, steps_since_turn = _serve(held, LIMITS, steps_since_turn)
        if held["urgent"].passed_over:
            turns.append(step)

    gaps = [later - earlier for earlier, later in pairwise(turns)]
    assert set(gaps) == {LIMITS.max_passed_over + 1}


def _demand(units: float = 1.0, timeout_s: float | None = None, step_s: float = 0.0) -> Demand:
    return Demand(
        units,
        num_steps=8,
        priority=Priority.INTERACTIVE,
        timeout_s=timeout_s,
        step_s=step_s,
        share_s=step_s,
    )


def _held(
    units: float,
    due_s: float = 0.0,
    priority: Priority = Priority.INTERACTIVE,
    least_s: float = 0.0,
) -> HeldWork:
    return HeldWork(units, priority, due_s, least_s)


def test_a_loop_that_is_full_refuses_at_once() -> None:
    with pytest.raises(ReplicaFullError, match=r"within 100.0 cost units, holding 93.0 and got 8"):
        admit(_demand(), [_held(93.0)], rate_units_s=1.0, now_s=0.0, limits=LIMITS)


def test_a_loop_full_of_batch_work_takes_interactive_work() -> None:
    batch = _held(99.0, priority=Priority.BATCH)
    demand = _demand()

    assert admit(demand, [batch], rate_units_s=1.0, now_s=0.0, limits=LIMITS) == 8.0
    with pytest.raises(ReplicaFullError, match=r"holding 99.0 and got 8.0"):
        admit(
            replace(demand, priority=Priority.BATCH),
            [batch],
            rate_units_s=1.0,
            now_s=0.0,
            limits=LIMITS,
        )


def test_an_empty_loop_takes_a_request_of_any_cost() -> None:
    assert admit(_demand(50.0), [], rate_units_s=10.0, now_s=0.0, limits=LIMITS) == 40.0


def test_the_estimate_counts_what_goes_before() -> None:
    earlier, later = _held(20.0, due_s=1.0), _held(40.0, due_s=1e9)
    batch = _held(30.0, priority=Priority.BATCH)
    held = [earlier, later, batch]

    assert admit(_demand(), held, rate_units_s=4.0, now_s=0.0, limits=LIMITS) == 7.0


def test_what_surely_takes_too_long_alone_is_told_so() -> None:
    with pytest.raises(DeadlineError, match=r"estimated 2.00 s must be within the 1.50 s left"):
        admit(
            _demand(timeout_s=1.5, step_s=0.25),
            [],
            rate_units_s=4.0,
            now_s=0.0,
            limits=LIMITS,
        )


def test_what_goes_before_and_surely_leaves_too_little_time_is_a_lack_of_room() -> None:
    with pytest.raises(ReplicaFullError, match=r"7.00 s must be within the 6.50 s left"):
        admit(
            _demand(timeout_s=6.5, step_s=0.25),
            [_held(20.0, due_s=1.0, least_s=5.0)],
            rate_units_s=4.0,
            now_s=0.0,
            limits=LIMITS,
        )


def test_what_shares_forwards_is_waited_for_by_its_share_of_them() -> None:
    demand = replace(_demand(timeout_s=6.5, step_s=0.75), share_s=0.05)
    held = [_held(20.0, least_s=0.4)] * 15

    assert admit(demand, held, rate_units_s=400.0, now_s=0.0, limits=LARGE_LIMITS) is not None
    with pytest.raises(ReplicaFullError, match=r"with what goes before, 6.80 s"):
        admit(demand, held + held[:1], rate_units_s=400.0, now_s=0.0, limits=LARGE_LIMITS)


def test_an_estimate_that_is_not_sure_turns_nobody_away() -> None:
    estimate_s = admit(
        _demand(timeout_s=6.5),
        [_held(20.0, due_s=1.0)],
        rate_units_s=4.0,
        now_s=0.0,
        limits=LIMITS,
    )

    assert estimate_s == 7.0


def test_without_a_measured_rate_there_is_no_estimate() -> None:
    demand = _demand(timeout_s=0.001)

    assert admit(demand, [], rate_units_s=None, now_s=0.0, limits=LIMITS) is None


def test_a_small_picture_is_due_before_a_large_one_that_came_a_little_earlier() -> None:
    large = due_time(_demand(24.7), rate_units_s=44.0, arrived_s=0.0, limits=LIMITS)
    small = due_time(_demand(1.0), rate_units_s=44.0, arrived_s=5.0, limits=LIMITS)
    small_much_later = due_time(_demand(1.0), rate_units_s=44.0, arrived_s=20.0, limits=LIMITS)

    assert small < large < small_much_later


def test_a_deadline_is_never_passed_by_patience() -> None:
    demand = _demand(24.7, timeout_s=2.0)

    assert due_time(demand, rate_units_s=1.0, arrived_s=10.0, limits=LIMITS) == 12.0


def test_the_least_urgent_leave_the_device_when_paused_latents_exceed_the_bound() -> None:
    soon, later, last = (
        _candidate(name, due_s=due) for name, due in (("a", 1), ("b", 2), ("c", 3))
    )

    offloaded = choose_offloads([(last, 4), (soon, 4), (later, 4)], LIMITS)

    assert offloaded == [last]
