"""A replica's step loop, at the resolution of changes of company.

Who shares a step is chosen as the engine chooses (`pipeline.denoising.batching`): interactive work,
then by due time, as many as the budget of a step allows, and every so many steps one before all
that was passed over too often. Whoever comes while a step runs joins the next one. Between two
changes of company all that run advance one forward a step, so a change is the only event.

Of those that run, small ones share a forward as the transformer groups them
(`pipeline.denoising.packing`), and pay its overhead once.
"""

from bisect import insort
from collections.abc import Sequence
from math import ceil, inf
from operator import attrgetter
from typing import Final

from pipeline.denoising.batching import BatchingLimits
from pipeline.denoising.packing import SharingLimits, group_forwards

_LIMITS: Final = BatchingLimits()

NEVER_SHARED: Final = SharingLimits(solo_rows=0, max_rows=0)
"""Each item has a forward of its own."""


class HeldPart:
    """A request, or the tiles of it that one replica draws, in a replica."""

    __slots__ = (
        "forward_s",
        "forward_units",
        "forwards_left",
        "is_batch",
        "num_forwards",
        "num_rows",
        "overhead_s",
        "passed_over",
        "rank",
        "request",
        "saved_s",
        "step_saved_s",
    )

    def __init__(
        self,
        request: int,
        num_forwards: float,
        forward_units: float,
        forward_s: float,
        due_s: float,
        *,
        is_batch: bool,
        num_rows: int = 0,
        overhead_s: float = 0.0,
    ) -> None:
        self.request = request
        self.num_forwards = self.forwards_left = num_forwards
        self.forward_units = forward_units
        self.forward_s = forward_s
        """Of one that it has to itself."""
        self.is_batch = is_batch
        self.num_rows = num_rows
        """Tokens of a forward."""
        self.overhead_s = overhead_s
        """What of a forward is paid once by all that share it."""
        self.step_saved_s = 0.0
        """By its present company, a step."""
        self.saved_s = 0.0
        self.passed_over = 0
        """Steps taken by others since its own last step, or since it came."""
        self.rank = (is_batch, due_s, request)

    @property
    def took_s(self) -> float:
        """What one forward has taken in the mean, once all are done."""
        return self.forward_s - self.saved_s / self.num_forwards


def find_due_s(own_s: float, timeout_s: float | None, now_s: float) -> float:
    """Return when work is due that comes now, and takes `own_s` alone."""
    patience_s = _LIMITS.patience * own_s
    return now_s + (patience_s if timeout_s is None else min(patience_s, timeout_s))


_RANK = attrgetter("rank")
_ROUNDING = 1e-9


class StepLoop:
    """What one replica holds, and how far it is."""

    __slots__ = (
        "_begun_s",
        "_is_turn",
        "_num_steps",
        "_running",
        "_saved_s",
        "_sharing",
        "_step_s",
        "_step_units",
        "_steps_since_turn",
        "held",
    )

    def __init__(self, step_units: float, sharing: SharingLimits = NEVER_SHARED) -> None:
        self.held: list[HeldPart] = []
        """Most urgent first."""
        self._running: list[HeldPart] = []
        self._step_units = step_units
        self._sharing = sharing
        self._saved_s = [0.0, 0.0]
        self._is_turn = False
        self._steps_since_turn = 0
        self._step_s = 1.0
        self._num_steps = 0.0
        """That this company takes, unless somebody comes."""
        self._begun_s = 0.0
        """When its first step begins, which may be later than now: a step is not interrupted."""

    def add(self, part: HeldPart, now_s: float) -> float:
        """Take a part in and return when the company changes next."""
        if self.held:
            self._advance(ceil((now_s - self._begun_s) / self._step_s - _ROUNDING))
            insort(self.held, part, key=_RANK)
        else:
            self._begun_s = now_s
            self.held.append(part)
        return self.go_on()

    def finish(self) -> HeldPart | None:
        """Let a part go that is done now; None if only the company changes."""
        self._advance(self._num_steps)
        for part in self._running:
            if part.forwards_left <= _ROUNDING:
                self._running.remove(part)
                self.held.remove(part)
                return part
        return None

    def go_on(self) -> float:
        """Return when the company changes next; there must be a part."""
        self._num_steps = 0.0
        # Whoever is done leaves before the next step is chosen.
        if not any(part.forwards_left <= _ROUNDING for part in self._running):
            self._rearrange()
        return self._begun_s + self._num_steps * self._step_s

    def count_ahead_s(self, due_s: float, *, is_batch: bool) -> float:
        """Return the time that what goes before work due then takes at least."""
        rank = (is_batch, due_s, inf)
        return sum(
            part.forwards_left * (part.forward_s - part.overhead_s)
            for part in self.held
            if part.rank <= rank
        )

    def take_saved_s(self) -> tuple[float, float]:
        """Return what sharing has saved interactive and batch work since it was last asked."""
        interactive_s, batch_s = self._saved_s
        self._saved_s = [0.0, 0.0]
        return interactive_s, batch_s

    def _advance(self, num_steps: float) -> None:
        num_steps = min(num_steps, self._num_steps)
        if num_steps <= 0:
            return
        self._begun_s += num_steps * self._step_s
        self._num_steps -= num_steps
        self._steps_since_turn = 0 if self._is_turn else self._steps_since_turn + ceil(num_steps)
        if len(self._running) < len(self.held):
            for part in self.held:
                part.passed_over += ceil(num_steps)
        for part in self._running:
            part.forwards_left -= num_steps
            part.passed_over = 0
            if part.step_saved_s:
                saved_s = num_steps * part.step_saved_s
                part.saved_s += saved_s
                self._saved_s[part.is_batch] += saved_s

    def _rearrange(self) -> None:
        held = self.held
        self._is_turn = False
        if len(held) == 1:
            self._running = held[:]
            held[0].step_saved_s = 0.0
            self._step_s = held[0].forward_s
            self._num_steps = held[0].forwards_left
            return
        self._running = running = choose_step(held, self._step_units, self._steps_since_turn)
        self._is_turn = running[0] is not held[0]
        share_overheads(running, self._sharing)
        self._step_s = sum(part.forward_s - part.step_saved_s for part in running)
        self._num_steps = min(part.forwards_left for part in running)
        if len(running) < len(held) or self._is_turn:
            self._num_steps = min(self._num_steps, self._count_steps_to_a_turn())

    def _count_steps_to_a_turn(self) -> int:
        """Return the steps until somebody has a turn, or has had it."""
        if self._is_turn:
            return 1
        longest = max(part.passed_over for part in self.held)
        to_age = _LIMITS.steps_to_a_turn(len(self.held)) - longest
        return max(1, to_age, _LIMITS.max_passed_over - self._steps_since_turn)


def share_overheads(running: Sequence[HeldPart], sharing: SharingLimits) -> None:
    """Say of each what the company in its forward saves it: all pay the longest overhead once."""
    for part in running:
        part.step_saved_s = 0.0
    sharers = [part for part in running if part.overhead_s]
    if len(sharers) < 2:
        return
    rows = [part.num_rows for part in sharers]
    for group in group_forwards(rows, sharing):
        overheads_s = [sharers[index].overhead_s for index in group]
        saved_s = (sum(overheads_s) - max(overheads_s)) / len(group)
        for index in group:
            sharers[index].step_saved_s = saved_s


def choose_step(held: list[HeldPart], step_units: float, steps_since_turn: int) -> list[HeldPart]:
    """Choose who shares the next step: the most urgent, and whoever fits beside it."""
    in_order = _put_in_order(held, steps_since_turn)
    first = in_order[0]
    running = [first]
    units = [0.0, 0.0]
    """Interactive and batch."""
    units[first.is_batch] = first.forward_units
    has_interactive = not held[0].is_batch
    for part in in_order[1:]:
        if sum(units) + part.forward_units > step_units or len(running) == _LIMITS.max_items:
            continue
        if has_interactive and part.is_batch:
            most_units = _LIMITS.batch_share * units[False]
            if units[True] + part.forward_units > most_units:
                continue
        running.append(part)
        units[part.is_batch] += part.forward_units
    return running


def _put_in_order(held: list[HeldPart], steps_since_turn: int) -> list[HeldPart]:
    if steps_since_turn < _LIMITS.max_passed_over:
        return held
    steps_to_a_turn = _LIMITS.steps_to_a_turn(len(held))
    aged = [part for part in held if part.passed_over >= steps_to_a_turn]
    if not aged:
        return held
    first = max(aged, key=lambda part: part.passed_over)
    return [first, *(part for part in held if part is not first)]
