"""A replica's step loop, at the resolution of requests.

Who shares a step is chosen as the engine chooses (`pipeline.denoising.batching`): interactive work
first, then by due time, as many as the budget of a step allows. Between two changes of company all
that run advance one forward a step, so a change is the only event.
"""

from bisect import insort
from operator import attrgetter


class HeldPart:
    """A request, or the tiles of it that one replica draws, in a replica."""

    __slots__ = ("forward_s", "forward_units", "forwards_left", "is_batch", "rank", "request")

    def __init__(
        self,
        request: int,
        num_forwards: float,
        forward_units: float,
        forward_s: float,
        due_s: float,
        *,
        is_batch: bool,
    ) -> None:
        self.request = request
        self.forwards_left = num_forwards
        self.forward_units = forward_units
        self.forward_s = forward_s
        self.is_batch = is_batch
        self.rank = (is_batch, due_s, request)


_RANK = attrgetter("rank")
_ROUNDING = 1e-9


class StepLoop:
    """What one replica holds, and how far it is."""

    __slots__ = ("_last_s", "_running", "_step_s", "_step_units", "held")

    def __init__(self, step_units: float) -> None:
        self.held: list[HeldPart] = []
        """Most urgent first."""
        self._running: list[HeldPart] = []
        self._step_units = step_units
        self._step_s = 1.0
        self._last_s = 0.0

    def add(self, part: HeldPart, now_s: float) -> float:
        """Take a part in and return when the next one will be done."""
        self._advance(now_s)
        if self.held:
            insort(self.held, part, key=_RANK)
        else:
            self.held.append(part)
        return self._rearrange(now_s)

    def finish(self, now_s: float) -> HeldPart:
        """Let the part go that is done at `now_s`."""
        self._advance(now_s)
        done = self._running[0]
        for part in self._running:
            if part.forwards_left < done.forwards_left - _ROUNDING:
                done = part
        self.held.remove(done)
        return done

    def go_on(self, now_s: float) -> float:
        """Return when the next part will be done; there must be one."""
        return self._rearrange(now_s)

    def _advance(self, now_s: float) -> None:
        num_steps = (now_s - self._last_s) / self._step_s
        for part in self._running:
            part.forwards_left -= num_steps
        self._last_s = now_s

    def _rearrange(self, now_s: float) -> float:
        held = self.held
        self._running = running = held[:] if len(held) == 1 else choose_step(held, self._step_units)
        step_s = 0.0
        least = running[0].forwards_left
        for part in running:
            step_s += part.forward_s
            least = min(least, part.forwards_left)
        self._step_s = step_s
        return now_s + max(0.0, least) * step_s


def choose_step(held: list[HeldPart], step_units: float) -> list[HeldPart]:
    """Choose who shares the next step: the most urgent, and whoever fits beside it."""
    running = [held[0]]
    units = held[0].forward_units
    for part in held[1:]:
        if units + part.forward_units <= step_units:
            running.append(part)
            units += part.forward_units
    return running
