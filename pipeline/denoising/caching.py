"""A least-recently-used cache of tensors, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class HasBytes(Protocol):
    """Anything that knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=HasBytes)


class ByteBoundedCache(Generic[Key, Value]):
    """Keeps what was used last, up to `max_bytes`. Not thread-safe: one thread owns it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    @property
    def held_bytes(self) -> int:
        """Bytes of what is kept."""
        return self._held_bytes

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return what is kept under `key`, or make it and keep it if it fits at all."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self.keep(key, value)
        return value

    def keep(self, key: Key, value: Value) -> None:
        """Keep what was made elsewhere if it fits at all, unless there is one already."""
        if key not in self._values and value.nbytes <= self._max_bytes:
            self._values[key] = value
            self._held_bytes += value.nbytes
            self._shrink()

    def clear(self) -> None:
        """Keep nothing."""
        self._values.clear()
        self._held_bytes = 0

    def _shrink(self) -> None:
        while self._held_bytes > self._max_bytes:
            _, dropped = self._values.popitem(last=False)
            self._held_bytes -= dropped.nbytes
