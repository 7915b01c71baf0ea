"""What was used least recently goes first, when a bound in bytes is reached."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Holds values until their sizes sum to more than `max_bytes`. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.num_bytes = 0
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Value | None:
        """Return a value, which is then the most recently used; None if it is not held."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Key, value: Value, num_bytes: int) -> None:
        """Hold a value; one that is larger than the whole cache is not held."""
        if num_bytes > self._max_bytes:
            return
        _, replaced_bytes = self._held.pop(key, (None, 0))
        self._held[key] = (value, num_bytes)
        self.num_bytes += num_bytes - replaced_bytes
        while self.num_bytes > self._max_bytes:
            _, (_, evicted_bytes) = self._held.popitem(last=False)
            self.num_bytes -= evicted_bytes
            self.num_evicted += 1
