"""A thousand calls, and processes killed in between: every accepted one has its record, once.

The service's own counters are the other side of the comparison, as a real Prometheus saw them.
"""

import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from prometheus_server import PrometheusServer, run_prometheus
from ray_processes import await_processes, find_processes
from service import Service, free_port, run_service
from usage_config import usage_config

from cluster.telemetry import Outcome
from cluster.usage import Price, UsageRecord, count_usage, merge_records, read_records
from cluster.usage.journal import find_journals, read_journal

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(1200)]

NUM_CALLS: Final = 1000
NUM_LONG_CALLS: Final = 5
VICTIMS: Final = ("denoiser", "router", "VAE decoder", "router", "text encoder")
"""One in each round; a router has long calls in hand when it dies."""
NUM_PROCESSES: Final = {"denoiser": 2}
CALLERS: Final = 8
WITHIN_S: Final = 300.0
SHORT: Final = {"prompt": "x", "size": "64x64", "num_inference_steps": 2}
LONG: Final = {
    "prompt": "x",
    "size": "512x512",
    "num_inference_steps": 50,
    "n": 4,
    "timeout_s": 600,
}
"""It is in hand for longer than counters take to be read; the pool has room for all of them."""


@dataclass(frozen=True)
class Watched:
    """A service, and what sees it."""

    service: Service
    prometheus: PrometheusServer
    usage: Path
    journals: Path

    def post(self, body: dict[str, Any]) -> tuple[str, int]:
        """Make a call under an id of its own; the status is 0 if the connection broke."""
        request_id = secrets.token_hex(8)
        url = f"{self.service.url}/v1/images/generations"
        try:
            headers = {"x-request-id": request_id}
            answer = httpx.post(url, json=body, headers=headers, timeout=WITHIN_S)
        except httpx.TransportError:
            return request_id, 0
        return request_id, answer.status_code

    def count(self, metric: str, **labels: str) -> float:
        """Sum a counter over all processes, those that are dead too."""
        selected = ",".join(f'{name}="{value}"' for name, value in labels.items())
        result = self.prometheus.query(f"sum(max_over_time({metric}{{{selected}}}[2h]))")
        return float(result[0]["value"][1]) if result else 0.0

    def await_count(self, number: int, metric: str, **labels: str) -> None:
        """Wait until a counter has come to a number."""
        deadline = time.monotonic() + WITHIN_S
        while (seen := self.count(metric, **labels)) != number:
            assert time.monotonic() < deadline, f"{metric} {labels} is {seen}, not {number}"
            time.sleep(0.5)

    def known(self) -> dict[str, UsageRecord]:
        """Return what was exported or is still in a journal, by id."""
        exported = self.records()
        kept = [record for path in find_journals(self.journals) for record in read_journal(path)]
        return {**{record.id: record for record in kept}, **exported}

    def records(self) -> dict[str, UsageRecord]:
        """Return what has been exported, by id."""
        return merge_records(read_records(sorted(self.usage.glob("*.jsonl"))))


@pytest.fixture(scope="module")
def watched(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    command = shutil.which("prometheus")
    if command is None:
        pytest.skip("no `prometheus` command: apt-get install prometheus")
    folder, port = tmp_path_factory.mktemp("thousand"), free_port()
    config = {
        "pools": [
            {
                "min_replicas": NUM_PROCESSES["denoiser"],
                "max_replicas": NUM_PROCESSES["denoiser"],
                "num_threads": 1,
                "step_loop": {"held_units": 4096},
            }
        ],
        **usage_config(folder),
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    options = ("--config", str(file), "--model", str(tiny_model), "--metrics-port", str(port))
    with (
        run_service(folder, *options, "--store", str(folder / "images")) as service,
        run_prometheus(command, folder / "prometheus", port) as prometheus,
    ):
        yield Watched(service, prometheus, folder / "usage", folder / "journal")


def run_round(watched: Watched, victim: str, num_calls: int) -> list[tuple[str, int]]:
    """Make calls, kill a process in their midst, and return what each was answered."""
    with ThreadPoolExecutor(CALLERS + NUM_LONG_CALLS) as threads:
        if victim == "router":
            return run_calls_then_kill_router(watched, threads, num_calls)
        calls = [threads.submit(watched.post, SHORT) for _ in range(num_calls)]
        await_done(calls, num_calls // 2)
        find_processes(watched.service, victim)[0].kill()
        answers = [call.result() for call in calls]
    await_processes(watched.service, victim, NUM_PROCESSES.get(victim, 1))
    return answers


def run_calls_then_kill_router(
    watched: Watched, threads: ThreadPoolExecutor, num_calls: int
) -> list[tuple[str, int]]:
    """Kill the router with long calls in hand, as soon as its counters were read with them.

    What a process counted after the last reading dies with it, so it would be missed for good.
    """
    num_short = num_calls - NUM_LONG_CALLS
    answers = list(threads.map(watched.post, [SHORT] * num_short))
    accepted = watched.count("ray_zimage_usage_records_total", state="lost")
    long_calls = [threads.submit(watched.post, LONG) for _ in range(NUM_LONG_CALLS)]
    await_open_calls(watched, NUM_LONG_CALLS)
    find_processes(watched.service, "router")[0].kill()
    answers += [call.result() for call in long_calls]
    await_processes(watched.service, "router", 1)
    await_answer(watched)
    watched.await_count(
        int(accepted) + NUM_LONG_CALLS, "ray_zimage_usage_records_total", state="lost"
    )
    return answers


def await_open_calls(watched: Watched, number: int) -> None:
    """Wait until so many calls are open, and the counters have seen every call."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        known = watched.known()
        num_open = sum(record.is_open for record in known.values())
        accepted = watched.count("ray_zimage_usage_records_total", state="accepted")
        if num_open == number and accepted == len(known):
            return
        assert time.monotonic() < deadline, f"{len(known)} known, {num_open} open, {accepted}"
        time.sleep(0.5)


def await_done(calls: list[Future[tuple[str, int]]], number: int) -> None:
    deadline = time.monotonic() + WITHIN_S
    while sum(call.done() for call in calls) < number:
        assert time.monotonic() < deadline, f"{number} calls did not end"
        time.sleep(0.01)


def await_answer(watched: Watched) -> None:
    """Wait until the service is ready again, without a call that would be counted."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            if httpx.get(f"{watched.service.url}/readyz", timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "the service did not come back"
        time.sleep(0.2)


def test_records_equal_accepted_calls_and_sums_agree_with_the_counters(watched: Watched) -> None:
    answers = [
        answer
        for victim in VICTIMS
        for answer in run_round(watched, victim, NUM_CALLS // len(VICTIMS))
    ]
    accepted = {request_id for request_id, status in answers if status not in (0, 503)}
    assert len(accepted) > NUM_CALLS - CALLERS * len(VICTIMS)
    metric = "ray_zimage_usage_records_total"
    records = await_records(watched, accepted)
    outcomes = Counter(record.outcome for record in records.values())
    ended = {outcome.value: n for outcome, n in outcomes.items() if outcome is not None}
    num_lost = ended.pop(Outcome.LOST, 0)

    assert len(answers) == NUM_CALLS
    by_request = Counter(record.request_id for record in records.values())
    assert set(by_request.values()) == {1}
    assert accepted <= set(by_request) <= {request_id for request_id, _ in answers}
    drawn = {request_id for request_id, status in answers if status == 200}
    succeeded = [r for r in records.values() if r.outcome is Outcome.SUCCEEDED]
    assert {record.request_id for record in succeeded} == drawn
    assert num_lost == NUM_LONG_CALLS * VICTIMS.count("router")

    watched.await_count(len(records), metric, state="accepted")
    watched.await_count(len(records) - num_lost, metric, state="closed")
    watched.await_count(num_lost, metric, state="lost")
    for outcome, number in ended.items():
        watched.await_count(number, "ray_zimage_requests_total", outcome=outcome)
    (total,) = count_usage(records.values(), Price())
    assert total.num_calls == len(records)
    assert total.num_succeeded == total.num_images == len(drawn)
    counted = watched.count("ray_zimage_cost_units_total")
    assert total.cost_units == pytest.approx(counted, rel=1e-4)


def await_records(watched: Watched, request_ids: set[str]) -> dict[str, UsageRecord]:
    """Wait until there is a record of each call, and nothing more comes."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        records = watched.records()
        missing = request_ids - {record.request_id for record in records.values()}
        if not missing:
            return records
        assert time.monotonic() < deadline, f"{len(missing)} calls have no record"
        time.sleep(0.5)
