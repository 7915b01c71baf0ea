"""A tour of a mixed cluster: a few pictures, and which pool drew each of them and why."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import httpx

from deployments.http_api import GENERATIONS

_TIMEOUT_S: Final = 300.0
_COLUMNS: Final = "{:>9} {:>11} {:>10}   {:<13} {:<10} {:>9} {:>8}   {}"


@dataclass(frozen=True)
class Stop:
    """One picture of the tour."""

    size: str
    priority: str = "interactive"
    path: str = "auto"

    def to_body(self, seed: int) -> dict[str, Any]:
        """Ask for it."""
        return {
            "prompt": "a red circle on a blue background",
            "size": self.size,
            "priority": self.priority,
            "path": self.path,
            "seed": seed,
            "timeout_s": _TIMEOUT_S,
        }


STOPS: Final = (
    Stop("128x128"),
    Stop("256x256"),
    Stop("512x512"),
    Stop("512x512", path="full_image"),
    Stop("512x512", path="tiled"),
    *(Stop("256x256", priority="batch"),) * 4,
    *(Stop("512x512"),) * 4,
)
"""One after the other by size, then together, so that one pool's work spills into the other."""
_ALONE: Final = 5


def show_tour(url: str, print_line: Callable[[str], None]) -> None:
    """Draw the tour's pictures through a running service and print a line for each."""
    print_line(
        _COLUMNS.format("size", "priority", "asked", "pool", "path", "expected", "took", "why")
    )
    numbered = list(enumerate(STOPS))
    # The service is this machine's own, which no proxy of the environment knows.
    with (
        httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client,
        ThreadPoolExecutor(len(STOPS)) as threads,
    ):

        def draw(item: tuple[int, Stop]) -> str:
            seed, stop = item
            try:
                answer = client.post(f"{url}{GENERATIONS}", json=stop.to_body(seed))
            except httpx.HTTPError as exc:
                return describe(stop, 0, {"error": {"message": f"no answer: {exc}"}})
            return describe(stop, answer.status_code, answer.json())

        _print_all(map(draw, numbered[:_ALONE]), print_line)
        _print_all(threads.map(draw, numbered[_ALONE:]), print_line)


def describe(stop: Stop, status: int, content: dict[str, Any]) -> str:
    """Make a line of what was asked and of what came back; status 0 is no answer."""
    asked = (stop.size, stop.priority, stop.path)
    if status != httpx.codes.OK:
        return _COLUMNS.format(*asked, "-", "-", "-", "-", content["error"]["message"])
    routing, took_ms = content["routing"], content["timings"]["total_ms"]
    return _COLUMNS.format(
        *asked,
        routing["pool"],
        content["path"],
        f"{routing['estimate_ms']:.0f} ms",
        f"{took_ms:.0f} ms",
        routing["explanation"],
    )


def _print_all(lines: Iterable[str], print_line: Callable[[str], None]) -> None:
    for line in lines:
        print_line(line)
