"""Who is in a step loop: admission, cancellation and backlog, safe for any thread.

The loop's thread reads the roster between steps; every other thread writes to it.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from pipeline.denoising.batching import BatchingLimits, Demand, admit
from pipeline.denoising.work import Admission, Listener, Work
from pipeline.errors import InvalidRequestError, ReplicaFailedError, ReplicaFullError
from pipeline.request import ImageSize, Priority

_RATE_WEIGHT: Final = 0.2
"""How much the last step moves the live rate."""

_MAX_SLOWER: Final = 4.0
"""How much slower than before a step may seem: a stalled machine is no change of speed."""

_TRUST_HALF_LIFE_S: Final = 30.0
"""After so long without a step, a slow one turns away only what needs twice the speed."""

_MAX_WARM_SIZES: Final = 256
"""More than a device keeps recorded forwards of."""


@dataclass(frozen=True)
class Ticket:
    """A request was let in."""

    id: str
    units: float
    """Cost of all its steps."""
    estimate_s: float | None
    """Seconds until it should be done; None while no rate was measured."""


@dataclass(frozen=True)
class ForwardTime:
    """How long one item's part of a forward takes."""

    seconds: float
    """Smoothed over the last steps."""
    num_steps: int
    trust: float = 1.0
    """How much of the times is still believed; less the longer ago the last step is."""
    share_s: float = 0.0
    """What an item adds to a step that it shares: as steps of several have shown, as smooth; before
    any, at least, as if one step took all that may share it."""
    alone_s: float = 0.0
    """A step of one item, as smooth; 0 while there was none."""
    has_shared: bool = False
    """Whether there was a step of several items that share forwards."""


@dataclass(frozen=True)
class Backlog:
    """What a step loop holds, and how fast it goes."""

    waiting_units: float
    """Cost of requests that have not started."""
    running_units: float
    """Cost of the remaining steps of those that have."""
    interactive_units: float
    """The part of both that is interactive."""
    rate_units_s: float | None
    """Cost units a second, smoothed over the last steps of warm sizes."""
    rate_trust: float
    """How much of the times that it says is still believed, as `ForwardTime.trust`."""
    holds_unknown: bool
    """Whether something is held of whose size no speed was known when it came."""
    num_held: int
    warm_sizes: frozenset[ImageSize]
    forward_times: Mapping[ImageSize, ForwardTime]
    """Of sizes that had steps to themselves."""
    oldest_wait_s: float = 0.0
    """Age of the oldest request that has not started."""


class Roster:
    """The requests that a step loop holds."""

    def __init__(self, limits: BatchingLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._condition = threading.Condition()
        self._held: dict[str, Work] = {}
        self._cancelled: set[str] = set()
        self._num_arrived = 0
        self._rate_units_s: float | None = None
        self._rated_s = -math.inf
        self._forward_times: dict[ImageSize, tuple[ForwardTime, float]] = {}
        """With the moment of the last step."""
        self._warm_sizes: dict[ImageSize, None] = {}  # in the order of their last step
        self._is_closing = False
        self._is_stopping = False
        self._failure: ReplicaFailedError | None = None

    @property
    def failure(self) -> ReplicaFailedError | None:
        """Why the loop has stopped for good; None while it is well."""
        return self._failure

    @property
    def rate_units_s(self) -> float | None:
        """Cost units a second, smoothed over the last steps; None while none was measured."""
        return self._rate_units_s

    def let_in(
        self,
        request_id: str,
        size: ImageSize,
        demand: Demand,
        prompt_embeds: Tensor,
        listener: Listener,
        build: Callable[[Admission], Work],
    ) -> Ticket:
        """Hold a request, on the terms that `admit` sets.

        Raises:
            InvalidRequestError: If the id is held already.
            ReplicaFullError: If the loop holds too much, or is closing.
            DeadlineError: If the request cannot be finished in time.
            ReplicaFailedError: If the loop has stopped.
        """
        timeout_s = math.inf if demand.timeout_s is None else demand.timeout_s
        with self._condition:
            self._check_open(request_id)
            now_s, rate = self._clock(), self._rate_units_s
            held = [work.to_held(rate, self._limits) for work in self._held.values()]
            step_s, share_s = self._least_step_s(size, demand.step_units, now_s)
            demand = replace(demand, step_s=step_s, share_s=share_s)
            estimate_s = admit(demand, held, rate_units_s=rate, now_s=now_s, limits=self._limits)
            self._num_arrived += 1
            self._held[request_id] = build(
                Admission(
                    id=request_id,
                    demand=demand,
                    prompt_embeds=prompt_embeds,
                    arrival=self._num_arrived,
                    arrived_s=now_s,
                    deadline_s=now_s + timeout_s,
                    listener=listener,
                    found_idle=not held,
                )
            )
            self._condition.notify_all()
        return Ticket(request_id, demand.units, estimate_s)

    def _least_step_s(
        self, size: ImageSize, step_units: float, now_s: float
    ) -> tuple[float, float]:
        """Return what a step takes at least, and what its part is of a step that is shared.

        As routers see it, so nothing of an unknown size.

        A size that a slow moment turned away would never be measured again, so the measurement is
        believed ever less.
        """
        if size in self._forward_times:
            timing, at_s = self._forward_times[size]
            trust = _trust(now_s - at_s)
            return timing.seconds * trust, timing.share_s * trust
        if self._forward_times or self._rate_units_s is None:
            return 0.0, 0.0
        seconds = step_units / self._rate_units_s * _trust(now_s - self._rated_s)
        return seconds, seconds

    def _check_open(self, request_id: str) -> None:
        if self._failure is not None:
            raise ReplicaFailedError(str(self._failure))
        if self._is_closing:
            raise ReplicaFullError("the step loop is closing and takes nothing more")
        if request_id in self._held:
            raise InvalidRequestError(f"id must not be held already, got {request_id!r}")

    def cancel(self, request_id: str) -> bool:
        """Mark a request to be let go, and say whether it is held."""
        with self._condition:
            is_held = request_id in self._held
            if is_held:
                self._cancelled.add(request_id)
            return is_held

    def take_cancelled(self) -> list[Work]:
        """Return those marked since the last call and still held."""
        with self._condition:
            marked, self._cancelled = self._cancelled, set()
            return [self._held[request_id] for request_id in marked if request_id in self._held]

    def works(self) -> list[Work]:
        """Return what is held, in order of arrival."""
        with self._condition:
            return list(self._held.values())

    def remove(self, work: Work) -> None:
        """Hold a request no more."""
        with self._condition:
            if self._held.get(work.id) is work:
                del self._held[work.id]
                self._cancelled.discard(work.id)

    def await_work(self) -> bool:
        """Wait until something is held, and say whether there is a step to take."""
        with self._condition:
            self._condition.wait_for(lambda: self._held or self._is_closing)
            return bool(self._held) and not self._is_stopping

    def measure(
        self, items: Sequence[ImageSize], units: float, elapsed_s: float, *, shares: bool = False
    ) -> None:
        """Learn from a step of items of these sizes how fast the loop goes.

        Args:
            items: The size of each.
            units: What they cost together.
            elapsed_s: How long the step took.
            shares: Whether they shared a forward, as more of them would have.
        """
        sizes = frozenset(items)
        with self._condition:
            is_warm = sizes <= self._warm_sizes.keys()
            self._keep_warm(sizes)
            # The first step of a size compiles or allocates, and says nothing of the rate.
            if is_warm and elapsed_s > 0:
                sample, rate = units / elapsed_s, self._rate_units_s
                smoothed = sample if rate is None else rate + _RATE_WEIGHT * (sample - rate)
                self._rate_units_s, self._rated_s = smoothed, self._clock()
                if len(sizes) == 1:
                    most = self._count_most(units / len(items)) if shares else 1
                    self._time_forward(items[0], len(items), elapsed_s, most)

    def _count_most(self, item_units: float) -> int:
        """Return how many items of one cost may share a step."""
        fitting = int(self._limits.step_units / item_units)
        return max(1, min(self._limits.max_items, fitting))

    def _keep_warm(self, sizes: frozenset[ImageSize]) -> None:
        for size in sizes:
            self._warm_sizes.pop(size, None)
            self._warm_sizes[size] = None
        # Callers have tens of thousands of sizes to choose from, and each report tells them all.
        while len(self._warm_sizes) > _MAX_WARM_SIZES:
            oldest = next(iter(self._warm_sizes))
            del self._warm_sizes[oldest]
            self._forward_times.pop(oldest, None)

    def _time_forward(self, size: ImageSize, num_items: int, elapsed_s: float, most: int) -> None:
        """Time a step of one size, which `most` items may share; 1 where none share forwards."""
        seconds = elapsed_s / num_items
        known, _ = self._forward_times.get(size, (ForwardTime(seconds, num_steps=0), 0.0))
        weight = max(_RATE_WEIGHT, 1 / (known.num_steps + 1))
        alone_s, share_s = known.alone_s, known.share_s
        has_shared = known.has_shared or (num_items > 1 and most > 1)
        if num_items == 1:
            alone_s = _smooth(alone_s or seconds, seconds, weight)
        if most == 1:
            share_s = _smooth(share_s or seconds, seconds, weight)
        elif num_items > 1:
            added_s = _added_by_each(elapsed_s, num_items, alone_s, most)
            share_s = added_s if not known.has_shared else _smooth(share_s, added_s, weight)
        elif not has_shared:
            share_s = alone_s / most
        timing = ForwardTime(
            _smooth(known.seconds, seconds, weight),
            known.num_steps + 1,
            share_s=share_s,
            alone_s=alone_s,
            has_shared=has_shared,
        )
        self._forward_times[size] = timing, self._clock()

    def backlog(self) -> Backlog:
        """Say what is held and how fast it goes."""
        with self._condition:
            now_s, held = self._clock(), list(self._held.values())
            waiting = [work.admission for work in held if work.started_s is None]
            return Backlog(
                waiting_units=sum(work.backlog_units for work in held if work.started_s is None),
                running_units=sum(
                    work.backlog_units for work in held if work.started_s is not None
                ),
                interactive_units=sum(
                    work.backlog_units
                    for work in held
                    if work.admission.demand.priority is Priority.INTERACTIVE
                ),
                rate_units_s=self._rate_units_s,
                rate_trust=_trust(now_s - self._rated_s),
                holds_unknown=any(work.admission.demand.step_s == 0 for work in held),
                num_held=len(held),
                warm_sizes=frozenset(self._warm_sizes),
                forward_times={
                    size: replace(timing, trust=_trust(now_s - at_s))
                    for size, (timing, at_s) in self._forward_times.items()
                },
                oldest_wait_s=now_s - waiting[0].arrived_s if waiting else 0.0,
            )

    def close(self) -> None:
        """Let nothing more in."""
        with self._condition:
            self._is_closing = True
            self._condition.notify_all()

    def stop(self) -> None:
        """Abandon what is held, before the next step."""
        with self._condition:
            self._is_stopping = True

    def fail(self, failure: ReplicaFailedError) -> None:
        """Let nothing more in, for good."""
        with self._condition:
            self._failure = failure


def _added_by_each(elapsed_s: float, num_items: int, alone_s: float, most: int) -> float:
    """Return what each of several items adds to a step, no less than if all that may had come."""
    added_s = (elapsed_s - alone_s) / (num_items - 1) if alone_s else elapsed_s / num_items
    return min(max(added_s, elapsed_s / max(most, num_items)), elapsed_s / num_items)


def _smooth(known_s: float, seconds: float, weight: float) -> float:
    return known_s + weight * (min(seconds, _MAX_SLOWER * known_s) - known_s)


def _trust(age_s: float) -> float:
    return math.exp2(-age_s / _TRUST_HALF_LIFE_S)
