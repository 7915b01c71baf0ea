"""Calls that are tried again until they have a picture, and what is killed under them."""

import base64
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final, Self

import httpx
import numpy as np
import psutil
from PIL import Image
from ray_session import command_of
from service import Service

GIVES_UP_AFTER_S: Final = 300.0
_PAUSE_S: Final = 0.5
_MID_DRAW_S: Final = 0.15
"""After a call was sent, so that a kill meets it while it is drawn."""


@dataclass(frozen=True)
class Order:
    """One picture."""

    size: str
    path: str
    seed: int
    num_inference_steps: int

    def to_body(self) -> dict[str, Any]:
        """Ask for it."""
        return {
            "prompt": "a red circle on a blue background",
            "size": self.size,
            "path": self.path,
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "response_format": "b64_json",
            "timeout_s": GIVES_UP_AFTER_S,
        }


@dataclass(frozen=True)
class Call:
    """A picture that came, and how."""

    order: Order
    trace_id: str
    begun_s: float
    ended_s: float
    num_broken: int
    """Tries that ended without an answer of the service."""
    num_refused: int
    """Tries that the service asked to repeat later."""
    path: str
    key: str
    pixels: bytes = field(repr=False)

    @property
    def took_s(self) -> float:
        """Seconds from the first try to the picture."""
        return self.ended_s - self.begun_s


class RetryingClient:
    """Tries again, under one `Idempotency-Key`, what broke or what it was asked to repeat."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=GIVES_UP_AFTER_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def draw(self, order: Order) -> Call:
        """Try until there is a picture.

        Raises:
            HTTPStatusError: If the service answers with another error than "later".
        """
        trace_id = secrets.token_hex(16)
        headers = {
            "Idempotency-Key": trace_id,
            "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
        }
        begun_s = time.monotonic()
        num_broken = num_refused = 0
        while True:
            answer = self._try(order, headers)
            if answer is None:
                num_broken += 1
            elif answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                num_refused += 1
            else:
                break
            assert time.monotonic() - begun_s < GIVES_UP_AFTER_S, order
            time.sleep(_PAUSE_S if answer is None else float(answer.headers["retry-after"]))
        content = answer.raise_for_status().json()
        [item] = content["data"]
        return Call(
            order=order,
            trace_id=trace_id,
            begun_s=begun_s,
            ended_s=time.monotonic(),
            num_broken=num_broken,
            num_refused=num_refused,
            path=content["path"],
            key=item["key"],
            pixels=Image.open(BytesIO(base64.b64decode(item["b64_json"]))).tobytes(),
        )

    def _try(self, order: Order, headers: dict[str, str]) -> httpx.Response | None:
        """Return the service's answer; None where a connection broke, here or behind the proxy."""
        try:
            answer = self._client.post(
                "/v1/images/generations", json=order.to_body(), headers=headers
            )
        except httpx.TransportError:
            return None
        is_own = answer.headers.get("content-type", "").startswith("application/json")
        return answer if is_own or answer.status_code < 500 else None


@dataclass(frozen=True)
class Victim:
    """A process of the service by a part of its command line, or a node with all its processes."""

    name: str
    mark: str
    costs_pictures: bool = False
    """Whether a picture that is done, and not yet handed on, dies with it."""
    is_node: bool = False

    def find(self, service: Service) -> list[psutil.Process]:
        """Return the processes that are to be killed together, or none."""
        family = psutil.Process(service.process.pid).children(recursive=True)
        roots = [process for process in family if self.mark in command_of(process)][:1]
        if not self.is_node:
            return roots
        return [member for root in roots for member in (root, *root.children(recursive=True))]


def replica(deployment: str, *, costs_pictures: bool = False) -> Victim:
    """Name one replica of a deployment; Ray titles processes after the actor they hold."""
    return Victim(deployment, f"ray::ServeReplica:zimage:{deployment}", costs_pictures)


@dataclass(frozen=True)
class Kill:
    """What was killed, and when."""

    victim: Victim
    at_s: float
    pids: frozenset[int]

    def meets(self, call: Call) -> bool:
        """Whether the call was in flight."""
        return call.begun_s <= self.at_s <= call.ended_s


def kill(service: Service, victim: Victim) -> Kill:
    """Kill at once; it must be there."""
    processes = victim.find(service)
    assert processes, victim
    for process in processes:
        process.kill()
    return Kill(victim, time.monotonic(), frozenset(process.pid for process in processes))


@dataclass(frozen=True)
class FaultRun:
    """A load and the kills under it."""

    calls: list[Call]
    kills: list[Kill]

    def during_kills(self) -> list[Call]:
        """Return the calls that were sent from the first kill on."""
        return [call for call in self.calls if call.ended_s >= self.kills[0].at_s]

    def may_be_drawn_again(self, call: Call) -> bool:
        """Whether something died that may have held the call's finished picture."""
        return any(each.victim.costs_pictures and each.meets(call) for each in self.kills)


def run_under_kills(
    service: Service,
    orders: Sequence[Order],
    victims: Iterable[Victim],
    *,
    interval_s: float,
    first_kill: int,
    kill_every: int,
) -> FaultRun:
    """Send an order every `interval_s`, whatever became of those before; kill in between."""
    victim_at = {first_kill + kill_every * index: each for index, each in enumerate(victims)}
    kills: list[Kill] = []
    begun_s = time.monotonic()
    with RetryingClient(service.url) as client, ThreadPoolExecutor(len(orders)) as threads:
        sent = []
        for index, order in enumerate(orders):
            time.sleep(max(0.0, begun_s + index * interval_s - time.monotonic()))
            sent.append(threads.submit(client.draw, order))
            if index in victim_at:
                time.sleep(_MID_DRAW_S)
                kills.append(kill(service, victim_at[index]))
        calls = [future.result() for future in sent]
    assert len(kills) == len(victim_at)
    return FaultRun(calls, kills)


def report_lines(run: FaultRun) -> Iterator[str]:
    """Describe latencies before and during the kills, and what each kill met."""
    first_s = run.kills[0].at_s
    yield f"{'':<44} {'calls':>5} {'p50 s':>7} {'p95 s':>7} {'p99 s':>7} {'most s':>7}"
    yield _line("before the first kill", [call for call in run.calls if call.ended_s < first_s])
    yield _line("from the first kill on", run.during_kills())
    yield "in flight at the death of"
    for each in run.kills:
        yield _line(f"  {each.victim.name}", [call for call in run.calls if each.meets(call)])
    num_broken = sum(call.num_broken for call in run.calls)
    num_refused = sum(call.num_refused for call in run.calls)
    yield f"{num_broken} tries broke, {num_refused} were refused for a while"


def _line(name: str, calls: list[Call]) -> str:
    times_s = [call.took_s for call in calls]
    p50, p95, p99 = np.percentile(times_s, [50, 95, 99]) if times_s else [np.nan] * 3
    most = max(times_s, default=np.nan)
    return f"{name:<44} {len(calls):>5} {p50:>7.2f} {p95:>7.2f} {p99:>7.2f} {most:>7.2f}"


def await_successor(service: Service, dead: Kill, *, within_s: float) -> None:
    """Wait until something has the killed process's place."""
    deadline = time.monotonic() + within_s
    while not {process.pid for process in dead.victim.find(service)} - dead.pids:
        assert time.monotonic() < deadline, f"nothing replaced {dead.victim.name}"
        time.sleep(_PAUSE_S)
