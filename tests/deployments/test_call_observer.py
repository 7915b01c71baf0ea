"""What one call leaves behind: metrics, one line of log, one usage record."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from metric_reader import read_points
from observed_service import GENERATIONS, build_local_api, load_stages, open_client, to_config
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from cluster.metrics import OtelMeter, use_meters
from cluster.telemetry import Outcome
from cluster.usage import UsageRecord
from cluster.usage.journal import find_journals, read_journal
from deployments.local_stages import LocalStages

PROMPT = "a secret castle"


@pytest.fixture(scope="module")
def stages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalStages:
    return load_stages(to_config(tiny_model, tmp_path_factory.mktemp("stages")))


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    use_meters([OtelMeter(MeterProvider([reader]))])
    yield reader
    use_meters([])


async def post(
    stages: LocalStages, model: Path, folder: Path, body: dict[str, Any]
) -> tuple[dict[str, Any], list[UsageRecord]]:
    """Make one call; return its answer and the records in the journal."""
    usage = {"enabled": True, "journal": str(folder / "journal"), "fsync": "accepted"}
    api = build_local_api(to_config(model, folder, usage=usage), stages)
    async with open_client(api) as client:
        answer = await client.post(GENERATIONS, json=body)
    [journal] = find_journals(folder / "journal")
    return answer.json(), read_journal(journal)


async def await_true(condition: Callable[[], object]) -> None:
    """Wait for what is told when the answer is on its way."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_picture_is_measured_by_stage_and_path(
    stages: LocalStages, tiny_model: Path, tmp_path: Path, reader: InMemoryMetricReader
) -> None:
    await post(stages, tiny_model, tmp_path, {"prompt": PROMPT, "size": "64x64", "n": 2})
    await await_true(lambda: "zimage.requests" in read_points(reader))

    metrics = read_points(reader)

    stages_seen = {
        point.attributes["stage"]: point.count for point in metrics["zimage.stage.duration"]
    }
    assert stages_seen == dict.fromkeys(
        ("encode", "queue", "denoise", "decode", "file", "store"), 2
    )
    [request] = metrics["zimage.requests"]
    assert (request.value, dict(request.attributes)) == (
        1,
        {"outcome": "succeeded", "error": "", "path": "full_image", "priority": "interactive"},
    )
    [deadline] = metrics["zimage.deadlines"]
    assert deadline.attributes["result"] == "met"
    [forwards] = metrics["zimage.step.batch_size"]
    assert forwards.sum == 16


async def test_a_missed_deadline_is_counted_as_missed(
    stages: LocalStages, tiny_model: Path, tmp_path: Path, reader: InMemoryMetricReader
) -> None:
    body = {"prompt": PROMPT, "size": "512x512", "num_inference_steps": 50, "timeout_s": 0.05}
    _, [record] = await post(stages, tiny_model, tmp_path, body)
    await await_true(lambda: "zimage.deadlines" in read_points(reader))

    [deadline] = read_points(reader)["zimage.deadlines"]

    assert deadline.attributes["result"] == "missed"
    assert (record.outcome, record.error) == (Outcome.FAILED, "deadline_exceeded")


async def test_a_usage_record_says_what_was_drawn_and_never_the_prompt(
    stages: LocalStages, tiny_model: Path, tmp_path: Path
) -> None:
    body = {"prompt": PROMPT, "size": "64x64", "n": 2, "num_inference_steps": 3}

    answer, [record] = await post(stages, tiny_model, tmp_path, body)

    assert record.outcome is Outcome.SUCCEEDED
    assert list(record.keys) == [item["key"] for item in answer["data"]]
    assert record.cost_units == pytest.approx(answer["usage"]["cost_units"], abs=0.001)
    assert (record.size, record.num_images, record.num_inference_steps) == ("64x64", 2, 3)
    assert (record.key_id, record.model_revision) == ("anonymous", answer["model_revision"])
    assert PROMPT not in record.to_line()


async def test_pictures_that_share_forwards_share_their_time(
    stages: LocalStages, tiny_model: Path, tmp_path: Path
) -> None:
    body = {"prompt": PROMPT, "size": "256x256", "n": 2, "num_inference_steps": 20}

    answer, [record] = await post(stages, tiny_model, tmp_path, body)

    assert record.stage_ms is not None
    wall_ms = answer["timings"]["queue_ms"] + answer["timings"]["denoise_ms"]
    assert 0.5 * wall_ms < record.stage_ms.denoise < 1.1 * wall_ms


async def test_a_refused_prompt_closes_its_record(
    stages: LocalStages, tiny_model: Path, tmp_path: Path
) -> None:
    _, [record] = await post(stages, tiny_model, tmp_path, {"prompt": "x" * 600, "size": "64x64"})

    assert (record.outcome, record.error) == (Outcome.REFUSED, "invalid_value")


async def test_a_call_whose_urls_cannot_be_signed_has_failed(
    stages: LocalStages, tiny_model: Path, tmp_path: Path
) -> None:
    usage = {"enabled": True, "journal": str(tmp_path / "journal")}
    api = build_local_api(to_config(tiny_model, tmp_path, usage=usage), stages)
    async with open_client(api) as client:
        await client.post(GENERATIONS, json={"prompt": PROMPT, "size": "64x64"})
        (tmp_path / "images" / ".signing-secret").chmod(0o644)
        answer = await client.post(GENERATIONS, json={"prompt": PROMPT, "size": "64x64"})
    [journal] = find_journals(tmp_path / "journal")

    assert answer.status_code == 503
    assert [record.outcome for record in read_journal(journal)] == [
        Outcome.SUCCEEDED,
        Outcome.FAILED,
    ]


async def test_a_call_writes_one_line_without_its_prompt(
    stages: LocalStages, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.zimage"):
        await post(stages, tiny_model, tmp_path, {"prompt": PROMPT, "size": "64x64"})
        await await_true(lambda: caplog.records)

    [line] = caplog.records
    assert "outcome=succeeded path=full_image pool=default size=64x64" in line.getMessage()
    assert PROMPT not in json.dumps(line.__dict__, default=str)
