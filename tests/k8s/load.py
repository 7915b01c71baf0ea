"""Callers that never stop asking, and remember every answer that was not a picture."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

BODY: Final = {
    "prompt": "a red circle",
    "size": "64x64",
    "num_inference_steps": 2,
    "response_format": "b64_json",
}
_TIMEOUT_S: Final = 90.0


@dataclass
class Load:
    """What callers have seen."""

    pictures: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def calls(url: str, headers: Mapping[str, str], *, callers: int = 2) -> Iterator[Load]:
    """Keep `callers` asking until the context ends, and its last answers are in."""
    load = Load()
    stop = threading.Event()
    lock = threading.Lock()

    def ask() -> None:
        with httpx.Client(timeout=_TIMEOUT_S, headers=headers) as client:
            while not stop.is_set():
                failure = _ask_once(client, url)
                with lock:
                    load.pictures += failure is None
                    load.failures += [failure] if failure else []

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ask_once(client: httpx.Client, url: str) -> str | None:
    try:
        answer = client.post(f"{url}/v1/images/generations", json=BODY)
    except httpx.HTTPError as exc:
        return repr(exc)
    return None if answer.status_code == 200 else f"{answer.status_code} {answer.text[:500]}"
