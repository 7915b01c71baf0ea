"""Who follows a job's events: each reader holds one of the router's places for minutes."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from deployments.errors import RETRY_AFTER_S, OverloadedError, QuotaExceededError
from deployments.keys import ANONYMOUS

_SHARE: Final = 0.5
"""Of the places, for one key: others' readers, and whoever asks for pictures, have the rest."""


class EventReaders:
    """Lets readers in while there is room, so that they never fill a router."""

    def __init__(self, max_readers: int) -> None:
        self._max_readers = max_readers
        self._by_owner: Counter[str] = Counter()

    def enter(self, owner: str) -> Callable[[], None]:
        """Take a place, and return what gives it back; to give it back again does nothing.

        Raises:
            QuotaExceededError: If the key has its share of readers.
            OverloadedError: If all places are taken.
        """
        if self._by_owner.total() >= self._max_readers:
            raise OverloadedError("all places for readers of events are taken", None, RETRY_AFTER_S)
        most = max(1, int(_SHARE * self._max_readers))
        if owner != ANONYMOUS.key_id and self._by_owner[owner] >= most:
            raise QuotaExceededError(
                f"a key may follow {most} jobs at once in a router", None, RETRY_AFTER_S
            )
        self._by_owner[owner] += 1
        is_in = True

        def leave() -> None:
            nonlocal is_in
            if is_in:
                is_in = False
                self._by_owner[owner] -= 1

        return leave
