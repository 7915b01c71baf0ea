"""A router that is killed loses no usage record: the next one closes what it had accepted."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from service import Service, run_service
from usage_config import usage_config

from cluster.telemetry import Outcome
from cluster.usage import UsageRecord, merge_records, read_records
from cluster.usage.journal import find_journals, read_journal

pytestmark = [pytest.mark.serve, pytest.mark.slow]

NUM_LONG_CALLS = 3
LONG = {"prompt": "x", "size": "512x512", "num_inference_steps": 50, "n": 4, "timeout_s": 600}
"""In hand for long enough that all of them are at once; the pool has room for that."""
SHORT = {"prompt": "x", "size": "64x64"}


@pytest.fixture
def service(tiny_model: Path, tmp_path: Path) -> Iterator[Service]:
    file = tmp_path / "config.yaml"
    pools = [{"step_loop": {"held_units": 4096}}]
    config = {"pools": pools, **usage_config(tmp_path, export_period_s=0.2)}
    file.write_text(yaml.safe_dump(config))
    options = ("--config", str(file), "--model", str(tiny_model))
    with run_service(tmp_path, *options, "--store", str(tmp_path / "images")) as service:
        yield service


def test_accepted_calls_equal_records_whatever_is_killed(service: Service, tmp_path: Path) -> None:
    first = post(service, SHORT)
    with ThreadPoolExecutor(NUM_LONG_CALLS) as threads:
        long_calls = [threads.submit(post, service, LONG) for _ in range(NUM_LONG_CALLS)]
        await_open_records(tmp_path / "journal", NUM_LONG_CALLS)
        find_router(service).send_signal(signal.SIGKILL)
        statuses = [call.result().status_code for call in long_calls]
    last = post_until_served(service, SHORT)

    records = await_records(tmp_path / "usage", 2 + NUM_LONG_CALLS)

    assert statuses == [500] * NUM_LONG_CALLS
    outcomes = sorted(str(record.outcome) for record in records)
    assert outcomes == [Outcome.LOST] * NUM_LONG_CALLS + [Outcome.SUCCEEDED] * 2
    charged = {key for record in records for key in record.keys}
    assert charged == {answer.json()["data"][0]["key"] for answer in (first, last)}


def post(service: Service, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/images/generations", json=body, timeout=120)


def post_until_served(service: Service, body: dict[str, Any]) -> httpx.Response:
    deadline = time.monotonic() + 120
    while (answer := post(service, body)).status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer.raise_for_status()


def find_router(service: Service) -> psutil.Process:
    [router] = [
        process
        for process in psutil.Process(service.process.pid).children(recursive=True)
        if "RouterDeployment" in " ".join(process.cmdline())
    ]
    return router


def await_open_records(journals: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        records = [record for path in find_journals(journals) for record in read_journal(path)]
        if sum(record.is_open for record in records) == number:
            return
        time.sleep(0.02)
    raise AssertionError(f"{number} calls were not accepted")


def await_records(folder: Path, number: int) -> list[UsageRecord]:
    """Wait until so many ids were exported, and return what is known of each."""
    deadline = time.monotonic() + 60
    records: dict[str, UsageRecord] = {}
    while len(records) < number and time.monotonic() < deadline:
        records = merge_records(read_records(sorted(folder.glob("*.jsonl"))))
        time.sleep(0.1)
    return list(records.values())
