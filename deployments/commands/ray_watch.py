"""Ends a command when one of Ray's own processes that it started has ended.

Ray replaces workers, but not these: without them replicas that live on answer for a while, no
other comes, and callers wait. Whoever supervises the command starts it again.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

import ray._private.worker
from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET

from deployments.commands.failure import tell_failure

_VITAL: Final = (PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET)
_POLL_S: Final = 0.5
_LETS_GO_WITHIN_S: Final = 20.0


class RayWatch:
    """Sets `stop` at the end of a process, and ends this one if that does not let it go."""

    def __init__(self, stop: threading.Event) -> None:
        self.failure: str | None = None
        """What ended; None while all is well."""
        self._stop = stop
        self._has_let_go = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more: from here on processes end because they are told to."""
        self._has_let_go.set()
        self._thread.join()

    def _watch(self) -> None:
        while not (self._stop.is_set() or self._has_let_go.wait(_POLL_S)):
            ended = find_ended()
            if ended:
                self.failure = f"Ray's {' and '.join(ended)} ended, and with it the service"
                self._stop.set()
                self._insist()

    def _insist(self) -> None:
        """A call to Serve that nothing answers any more may never return."""
        if not self._has_let_go.wait(_LETS_GO_WITHIN_S):
            tell_failure(self.failure)
            os._exit(1)


@contextlib.contextmanager
def watch_ray(stop: threading.Event) -> Iterator[RayWatch]:
    """Watch until the context ends; a cluster that was only joined has nothing to watch here."""
    watch = RayWatch(stop)
    watch.start()
    try:
        yield watch
    finally:
        watch.close()


def find_ended() -> list[str]:
    """Name the vital processes that ended unasked.

    To ask reaps them: workers take a raylet that nobody has reaped for one that lives.
    """
    # What `ray start --block` asks too; there is no public name for it.
    node = ray._private.worker._global_node
    if node is None:
        return []
    return sorted({kind for kind, _ in node.dead_processes()} & {*_VITAL})
