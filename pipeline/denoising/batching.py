"""Which requests are admitted, and which share the next step. Pure functions over plain data.

Order within a step: interactive before batch, then the earliest due time; every so many steps one
that was passed over too often goes before all. A request is due at its deadline, or when it has
taken `patience` times as long as it would alone, whichever comes first: a small picture overtakes a
large one that is not late, and no later arrival overtakes one that is. Nobody joins a step who
would make another miss its deadline: of a burst that cannot all be in time the first ones are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import DeadlineError, ReplicaFullError
from pipeline.request import Priority


@dataclass(frozen=True)
class BatchingLimits:
    """Bounds of one step loop; units are cost units (`pipeline.denoising.cost`)."""

    step_units: float = 8.0
    """Work of one step: how long an arrival waits at most, but for a single larger forward."""
    max_items: int = 16
    """Items of one step."""
    held_units: float = 512.0
    """Work that the loop accepts, all remaining steps counted: of batch requests beside all that it
    holds, of interactive ones beside the interactive. They go before the others, and would wait for
    none of it."""
    max_passed_over: int = 16
    """Steps, beyond one for each request held, after which a waiting request goes first, and steps
    until another one may.

    Those ahead in order of their due times take about that one each: without them a deep queue
    would turn by turn bring all forward together, and none to its end. Batch requests that wait
    together come of age together, and must not go before interactive ones one after another.
    """
    batch_share: float = 0.25
    """Batch work that may join a step while interactive requests wait, in parts of their work in
    it: on a device that is full it makes the step so much longer."""
    deadline_margin: float = 1.25
    """How much longer than by the rate the steps of a shared company may take: who joins one must
    leave the others so much time."""
    patience: float = 4.0
    """How many times its time alone a request may take before it is due."""
    paused_bytes: int = 256 * 2**20
    """Latents of paused requests that stay on the device; others wait in host memory."""

    def steps_to_a_turn(self, num_held: int) -> int:
        """Return after how many steps without it one of so many requests goes first."""
        return self.max_passed_over + num_held


@dataclass(frozen=True)
class Candidate:
    """What the choice knows of one held request."""

    id: str
    step_units: float
    """Cost of its next forward."""
    priority: Priority
    due_s: float
    """On the loop's clock; infinite when never."""
    arrival: int
    """Rank of arrival, unique."""
    passed_over: int = 0
    """Steps taken by others since its own last step, or since it came."""
    steps_left: int = 1
    deadline_s: float = math.inf
    """On the loop's clock."""


def choose_batch(
    candidates: Sequence[Candidate],
    limits: BatchingLimits,
    *,
    steps_since_turn: int,
    now_s: float = 0.0,
    rate_units_s: float | None = None,
) -> list[Candidate]:
    """Choose who shares the next step, most urgent first.

    The most urgent always runs, however large. Others join while the step stays within bounds and
    those chosen keep their deadlines, and batch requests while they hold up no interactive one by
    more than `batch_share`. With at most n requests held at a time, none is passed over more than
    `(max_passed_over + 2) (n + 1)` steps: of those who wait for a turn the most passed over has it,
    and counts anew afterwards.

    Args:
        candidates: All that wait for a step.
        limits: The bounds.
        steps_since_turn: Steps after the last one that `is_turn`; however many if none was.
        now_s: On the loop's clock.
        rate_units_s: Cost units a second; None while none was measured.
    """
    chosen: list[Candidate] = []
    units = dict.fromkeys(Priority, 0.0)
    has_interactive = any(each.priority is Priority.INTERACTIVE for each in candidates)
    for candidate in _put_in_order(candidates, limits, steps_since_turn):
        fits = len(chosen) < limits.max_items
        fits &= sum(units.values()) + candidate.step_units <= limits.step_units
        if has_interactive and candidate.priority is Priority.BATCH:
            most_units = limits.batch_share * units[Priority.INTERACTIVE]
            fits &= units[Priority.BATCH] + candidate.step_units <= most_units
        if rate_units_s and fits:
            step_s = sum(units.values()) / rate_units_s
            joined_s = step_s + candidate.step_units / rate_units_s
            fits = not any(_is_spoiled(each, step_s, joined_s, now_s, limits) for each in chosen)
        if not chosen or fits:
            chosen.append(candidate)
            units[candidate.priority] += candidate.step_units
    return chosen


def _is_spoiled(
    chosen: Candidate, step_s: float, joined_s: float, now_s: float, limits: BatchingLimits
) -> bool:
    """Say whether a deadline that is kept in steps as they are would be at risk in longer ones."""
    left_s = chosen.deadline_s - now_s
    is_kept = chosen.steps_left * step_s <= left_s
    return is_kept and limits.deadline_margin * chosen.steps_left * joined_s > left_s


def is_turn(chosen: Sequence[Candidate], candidates: Sequence[Candidate]) -> bool:
    """Say whether the first of those chosen goes before others that are more urgent."""
    return chosen[0] is not min(candidates, key=_urgency)


def _put_in_order(
    candidates: Sequence[Candidate], limits: BatchingLimits, steps_since_turn: int
) -> list[Candidate]:
    in_order = sorted(candidates, key=_urgency)
    if steps_since_turn >= limits.max_passed_over:
        steps_to_a_turn = limits.steps_to_a_turn(len(candidates))
        aged = [each for each in in_order if each.passed_over >= steps_to_a_turn]
        if aged:
            first = max(aged, key=lambda each: each.passed_over)
            in_order.remove(first)
            in_order.insert(0, first)
    return in_order


def _urgency(candidate: Candidate) -> tuple[bool, float, int]:
    return candidate.priority is Priority.BATCH, candidate.due_s, candidate.arrival


@dataclass(frozen=True)
class Demand:
    """A request that asks to be let in."""

    step_units: float
    num_steps: int
    priority: Priority
    timeout_s: float | None
    step_s: float = 0.0
    """Seconds that a step takes at least, as far as is known for sure."""
    share_s: float = 0.0
    """What it adds at least to steps that it shares with others: less than `step_s` where it shares
    their forwards, too."""

    @property
    def least_s(self) -> float:
        """Seconds that all its steps take at least."""
        return self.step_s * self.num_steps

    @property
    def units(self) -> float:
        """Cost of all its steps."""
        return self.step_units * self.num_steps


@dataclass(frozen=True)
class HeldWork:
    """What the loop holds of one request."""

    units: float
    """Cost of its remaining steps."""
    priority: Priority
    due_s: float
    least_s: float = 0.0
    """What they add at least to steps that are shared, in seconds."""


def admit(
    demand: Demand,
    held: Sequence[HeldWork],
    *,
    rate_units_s: float | None,
    now_s: float,
    limits: BatchingLimits,
) -> float | None:
    """Let a request in, or say why not.

    Returns:
        Seconds until it should be done; None while no rate was measured.

    Raises:
        ReplicaFullError: If it does not fit beside what is held, or what goes before it surely
            leaves too little time.
        DeadlineError: If it surely takes too long alone.
    """
    is_interactive = demand.priority is Priority.INTERACTIVE
    held_units = sum(
        work.units for work in held if not is_interactive or work.priority is demand.priority
    )
    if held_units and held_units + demand.units > limits.held_units:
        raise ReplicaFullError(
            f"held work must stay within {limits.held_units:.1f} cost units, "
            f"holding {held_units:.1f} and got {demand.units:.1f}"
        )
    if not rate_units_s:
        return None
    ahead = _find_ahead(demand, held, rate_units_s, now_s, limits)
    shares_s = demand.share_s * demand.num_steps + sum(work.least_s for work in ahead)
    left_s = math.inf if demand.timeout_s is None else demand.timeout_s
    if demand.least_s > left_s:
        raise DeadlineError(
            f"estimated {demand.least_s:.2f} s must be within the {left_s:.2f} s left"
        )
    if shares_s > left_s:
        raise ReplicaFullError(
            f"with what goes before, {shares_s:.2f} s must be within the {left_s:.2f} s left"
        )
    return (demand.units + sum(work.units for work in ahead)) / rate_units_s


def due_time(
    demand: Demand, *, rate_units_s: float | None, arrived_s: float, limits: BatchingLimits
) -> float:
    """Return when a request is due, on the loop's clock.

    By the rate as it is known now: by that of its arrival, whoever came before any was known would
    have all the time there is, and everyone later would overtake.
    """
    timeout_s = math.inf if demand.timeout_s is None else demand.timeout_s
    # Before a rate is known a unit stands for a second: the order of sizes is right all the same.
    patience_s = limits.patience * demand.units / (rate_units_s or 1.0)
    return arrived_s + min(timeout_s, patience_s)


def _find_ahead(
    demand: Demand,
    held: Sequence[HeldWork],
    rate_units_s: float,
    now_s: float,
    limits: BatchingLimits,
) -> list[HeldWork]:
    due_s = due_time(demand, rate_units_s=rate_units_s, arrived_s=now_s, limits=limits)
    rank = (demand.priority is Priority.BATCH, due_s)
    return [work for work in held if (work.priority is Priority.BATCH, work.due_s) <= rank]


def choose_offloads(
    paused: Sequence[tuple[Candidate, int]], limits: BatchingLimits
) -> list[Candidate]:
    """Choose whose latents leave the device: of the paused, those that will wait longest.

    Args:
        paused: Candidates that have started and do not run, with the bytes of their latents.
        limits: The bound on their sum.
    """
    by_urgency = sorted(paused, key=lambda each: _urgency(each[0]))
    kept_bytes = 0
    offloaded = []
    for candidate, num_bytes in by_urgency:
        if kept_bytes + num_bytes > limits.paused_bytes:
            offloaded.append(candidate)
        else:
            kept_bytes += num_bytes
    return offloaded
