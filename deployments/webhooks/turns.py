"""Whose message may be sent: no receiver holds up the others, however slow it is.

Pure but for `Turns`, which keeps what one router knows of the receivers. Times are seconds of one
clock.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Final

MAX_SENDS: Final = 32
"""At once, of all receivers."""
MAX_WAIT_S: Final = 300.0
"""Longest that a message is put back for."""
_MAX_SENDS_EACH: Final = 2
_MAX_SILENT_SENDS: Final = 8
"""At once, of all receivers that gave no answer the last time."""
_TIMEOUTS: Final = 3
"""So many in a row, and the receiver rests."""
_REST_TIMEOUTS: Final = 3.0
"""The first rest, in time-outs; each is twice the last."""
_MAX_REST_TIMEOUTS: Final = 30.0
_FIRST_TURN_S: Final = 0.05


@dataclass(frozen=True)
class Receiver:
    """What a router knows of a receiver."""

    num_sends: int = 0
    """Under way."""
    num_timeouts: int = 0
    """In a row, up to now."""
    silent_since_s: float = 0.0
    """When the first of them ended."""
    rests_until_s: float = 0.0
    turn_s: float = _FIRST_TURN_S
    """Between the ends of two messages, when it is kept busy."""
    line_ends_s: float = 0.0
    """When those that were put back will all have had their turn."""


def has_turn(receiver: Receiver, now_s: float, num_silent_sends: int) -> bool:
    """Say whether a receiver may have one more message at once."""
    if now_s < receiver.rests_until_s:
        return False
    if receiver.num_timeouts:
        return not receiver.num_sends and num_silent_sends < _MAX_SILENT_SENDS
    return receiver.num_sends < _MAX_SENDS_EACH


def join_line(receiver: Receiver, now_s: float) -> Receiver:
    """Give one more message that has no turn its place behind those that wait."""
    begins_s = max(now_s, receiver.rests_until_s, receiver.line_ends_s)
    ends_s = min(begins_s + receiver.turn_s, now_s + MAX_WAIT_S)
    return replace(receiver, line_ends_s=ends_s)


def begin_send(receiver: Receiver) -> Receiver:
    """Count a message that is on its way."""
    return replace(receiver, num_sends=receiver.num_sends + 1)


def end_send(
    receiver: Receiver, now_s: float, *, took_s: float, is_silence: bool, timeout_s: float
) -> Receiver:
    """Learn from a message that has ended."""
    turn_s = (receiver.turn_s + took_s / _MAX_SENDS_EACH) / 2
    ended = replace(receiver, num_sends=receiver.num_sends - 1, turn_s=turn_s)
    if is_silence:
        num_timeouts = receiver.num_timeouts + 1
        return replace(
            ended,
            num_timeouts=num_timeouts,
            silent_since_s=receiver.silent_since_s if receiver.num_timeouts else now_s,
            rests_until_s=now_s + rest_s(num_timeouts, timeout_s),
        )
    line_ends_s = 0.0 if receiver.num_timeouts else receiver.line_ends_s
    return replace(ended, num_timeouts=0, rests_until_s=0.0, line_ends_s=line_ends_s)


def rest_s(num_timeouts: int, timeout_s: float) -> float:
    """Return how long a receiver gets nothing after so many time-outs in a row."""
    if num_timeouts < _TIMEOUTS:
        return 0.0
    doublings = min(num_timeouts - _TIMEOUTS, 16)
    num = min(_REST_TIMEOUTS * 2.0**doublings, _MAX_REST_TIMEOUTS)
    return min(num * timeout_s, MAX_WAIT_S)


class Turns:
    """Keeps what one router knows of the receivers; an event loop's own."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._receivers: defaultdict[str, Receiver] = defaultdict(Receiver)

    def wait_s(self, name: str, now_s: float) -> float:
        """Return the seconds until a receiver's next message has its turn; 0 if it has."""
        receiver = self._receivers[name]
        silent = (each for each in self._receivers.values() if each.num_timeouts)
        if has_turn(receiver, now_s, sum(each.num_sends for each in silent)):
            return 0.0
        waiting = self._receivers[name] = join_line(receiver, now_s)
        wait_s = waiting.line_ends_s - now_s
        # A line of the greatest length is one whose last come all at once.
        return wait_s if wait_s < MAX_WAIT_S else wait_s * random.uniform(0.5, 1.0)

    def silent_s(self, name: str, now_s: float) -> float:
        """Return for how long a receiver has given no answer; 0 if it has."""
        receiver = self._receivers[name]
        return now_s - receiver.silent_since_s if receiver.num_timeouts else 0.0

    def begin(self, name: str) -> None:
        """Count a message that is on its way."""
        self._receivers[name] = begin_send(self._receivers[name])

    def end(self, name: str, now_s: float, *, took_s: float, is_silence: bool) -> None:
        """Learn from a message that has ended."""
        self._receivers[name] = end_send(
            self._receivers[name],
            now_s,
            took_s=took_s,
            is_silence=is_silence,
            timeout_s=self._timeout_s,
        )
