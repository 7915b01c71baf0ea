"""A service on Ray, watched: one tree across processes, Ray's exporter, logs and usage records."""

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from otlp_receiver import OtlpReceiver, attributes_of, find_orphans, seconds_of
from ray_session import await_lines, await_metrics
from service import Service, free_port, run_service
from usage_config import usage_config

from cluster.telemetry import Outcome
from cluster.usage import UsageRecord, read_records
from deployments.cli import main

pytestmark = pytest.mark.serve

GENERATIONS = "/v1/images/generations"
GATEWAY_SPAN = "00f067aa0ba902b7"
STAGES = ("zimage.encode", "zimage.denoise", "zimage.decode", "zimage.store")
ALL = (f"POST {GENERATIONS}", "zimage.generate", *STAGES)


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(
    tiny_model: Path, folder: Path, receiver: OtlpReceiver, metrics_port: int
) -> Iterator[Service]:
    config = {"telemetry": {"step_detail_ratio": 1.0}, **usage_config(folder, export_period_s=0.2)}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    options = ("--config", str(file), "--model", str(tiny_model))
    places = ("--store", str(folder / "images"), "--metrics-port", str(metrics_port))
    environment = receiver.environment()
    with run_service(folder, *options, *places, environment=environment) as service:
        yield service


def post(service: Service, body: dict[str, Any]) -> tuple[str, httpx.Response]:
    """Make a call within a new trace of a gateway."""
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{GATEWAY_SPAN}-01"}
    url = f"{service.url}{GENERATIONS}"
    return trace_id, httpx.post(url, json={"prompt": "x", **body}, headers=headers, timeout=60)


def test_a_request_is_one_tree_across_replicas_and_agrees_with_its_answer(
    service: Service, receiver: OtlpReceiver
) -> None:
    trace_id, answer = post(service, {"size": "256x256"})
    timings = {name: ms / 1000 for name, ms in answer.json()["timings"].items()}

    spans = receiver.await_trace(trace_id, *ALL)

    assert sorted(span.name for span in spans) == sorted(ALL)
    assert find_orphans(spans, root_parent=bytes.fromhex(GATEWAY_SPAN)) == []
    named = {span.name: span for span in spans}
    replicas = {attributes_of(named[name])["zimage.replica"] for name in STAGES[:3]}
    assert len(replicas) == 3
    run_s = {name: attributes_of(named[name])["zimage.run_s"] for name in STAGES[:3]}
    assert run_s["zimage.encode"] == pytest.approx(timings["encode_ms"], abs=0.005)
    assert run_s["zimage.denoise"] == pytest.approx(timings["denoise_ms"], abs=0.005)
    assert run_s["zimage.decode"] == pytest.approx(
        timings["decode_ms"] + timings["file_ms"], abs=0.005
    )
    assert seconds_of(named["zimage.denoise"]) == pytest.approx(
        timings["queue_ms"] + timings["denoise_ms"], abs=0.005
    )


def test_a_call_that_misses_its_deadline_ends_as_an_error(
    service: Service, receiver: OtlpReceiver
) -> None:
    body = {"size": "512x512", "num_inference_steps": 50, "timeout_s": 0.3}
    trace_id, answer = post(service, body)
    assert answer.status_code == 504

    spans = receiver.await_trace(trace_id, ALL[0], "zimage.generate")

    failed = {span.name for span in spans if span.status.code == Status.STATUS_CODE_ERROR}
    assert {ALL[0], "zimage.generate"} <= failed


def test_a_caller_who_leaves_cancels_down_to_the_step_loop(
    service: Service, receiver: OtlpReceiver
) -> None:
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{GATEWAY_SPAN}-01"}
    body = {"prompt": "x", "size": "1024x1024", "num_inference_steps": 50, "timeout_s": 600}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}{GENERATIONS}", json=body, headers=headers, timeout=1.0)

    spans = receiver.await_trace(trace_id, ALL[0], "zimage.generate", "zimage.denoise")

    ended = {span.name: span for span in spans}
    for_naught = [ended["zimage.generate"], ended["zimage.denoise"]]
    assert {attributes_of(span)["zimage.outcome"] for span in for_naught} == {"cancelled"}
    assert {span.status.code for span in for_naught} == {Status.STATUS_CODE_UNSET}


def test_rays_exporter_has_the_services_metrics(service: Service, metrics_port: int) -> None:
    post(service, {"size": "64x64"})

    samples = await_metrics(
        metrics_port,
        "ray_zimage_requests_total",
        "ray_zimage_request_duration_seconds_bucket",
        "ray_zimage_step_units_total",
        "ray_zimage_backlog_units",
        "ray_zimage_replica_start_duration_seconds_count",
    )

    [succeeded] = [
        line for line in samples["ray_zimage_requests_total"] if 'outcome="succeeded"' in line
    ]
    assert 'path="full_image"' in succeeded
    assert 'deployment="RouterDeployment"' in succeeded
    assert 'pool="default"' in samples["ray_zimage_step_units_total"][0]


def test_top_shows_the_pool_and_its_replica(
    service: Service, metrics_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    post(service, {"size": "64x64"})
    await_metrics(metrics_port, "ray_zimage_requests_total", "ray_zimage_backlog_units")

    exit_code = main(["top", f"http://127.0.0.1:{metrics_port}/metrics", "--once"])

    lines = capsys.readouterr().out.splitlines()
    assert exit_code == 0
    assert "succeeded" in lines[0]
    [pool] = [line.split() for line in lines if line.startswith("default ")]
    assert pool[:2] == ["default", "1"]


def test_every_accepted_call_has_one_closed_record(service: Service, folder: Path) -> None:
    keys = {post(service, {"size": "64x64"})[1].json()["data"][0]["key"] for _ in range(3)}

    records = await_records(folder / "usage", keys)

    drawn = [record for record in records if set(record.keys) & keys]
    assert {record.outcome for record in drawn} == {Outcome.SUCCEEDED}
    assert len({record.id for record in drawn}) == 3


def test_a_call_writes_one_line_of_json_with_its_request_and_its_trace(service: Service) -> None:
    trace_id, _ = post(service, {"size": "64x64"})

    [line] = [json.loads(line) for line in await_lines(service, trace_id)]

    assert line["outcome"] == "succeeded"
    assert line["trace_id"] == trace_id
    assert line["request_id"] == line["zimage_request_id"]


def await_records(folder: Path, keys: set[str], within_s: float = 20.0) -> list[UsageRecord]:
    """Wait until pictures are in exported records, and return all that were exported."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        records = list(read_records(sorted(folder.glob("*.jsonl"))))
        if keys <= {key for record in records for key in record.keys}:
            return records
        time.sleep(0.1)
    raise AssertionError("the pictures' records were not exported")
