"""Calls that are given up in a chosen stage, each in every way in which a caller can give up."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
from paced_models import (
    ADMITTED,
    CANCEL,
    DECODE_BEGUN,
    DECODED,
    ENCODE_BEGUN,
    ENCODED,
    LET_GO,
    STEP,
    StageTimes,
)
from paced_service import PacedService, run_paced_service
from s3_server import WRITER, S3Server

from cluster.usage import UsageRecord
from cluster.usage.journal import find_journals, read_journal
from deployments.config import AppConfig

WITHIN_S: Final = 60.0
BUCKET: Final = "images"
TIMES: Final = StageTimes(encode_s=0.3, decode_picture_s=0.3)
"""Long enough to give up in their midst."""
_UPLOAD_S: Final = 0.3
"""From decoded pixels to an upload that waits for its server, generously."""


class Way(StrEnum):
    """How a caller gives up."""

    ANSWER = "leaves before the answer"
    STREAM = "leaves a stream"
    JOB = "DELETE of the job"


class Stage(StrEnum):
    """Where its picture is then."""

    QUEUED = "queued"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    STORING = "storing"


@dataclass(frozen=True)
class Cancellation:
    """What became of a call that was given up."""

    record: UsageRecord
    call_ended_s: float
    """From giving up to the router's end of the call."""
    stage_free_s: float | None
    """To the stage's end of the work; None for an upload, whose server hangs."""
    num_steps_after: int
    """Steps that were finished after the step loop had heard of it: the running one, at most."""
    later: set[str]
    """Stages that were begun for it afterwards."""
    job_status: str | None


@dataclass(frozen=True)
class Bench:
    """A service to give up calls of, and where it keeps what."""

    service: PacedService
    store: S3Server
    journals: Path
    _seeds: Iterator[int]

    def cancel(self, way: Way, stage: Stage) -> Cancellation:
        """Make a call, give it up in a stage, and wait for all that follows."""
        seed = next(self._seeds)
        prompt, logs, begun_s = f"picture {seed}", self.service.logs, time.monotonic()
        with self._obstacle(stage):
            call = _Call(self.service, way, _to_body(prompt, seed, stage))
            try:
                self._await_stage(stage, prompt, seed, begun_s)
                given_up_s, given_up_at = time.monotonic(), time.time()
                call.give_up()
                record = self._await_end(call.request_id)
                free_s = self._await_free(stage, prompt, seed, begun_s)
            finally:
                call.close()
        ended_at = datetime.fromisoformat(record.ended_at or "").timestamp()
        events = [event for event in logs.read() if event.at_s > begun_s]
        mine = [event for event in events if event.subject in (str(seed), prompt)]
        heard_s = next((event.at_s for event in mine if event.name == CANCEL), None)
        return Cancellation(
            record,
            call_ended_s=ended_at - given_up_at,
            stage_free_s=None if free_s is None else free_s - given_up_s,
            num_steps_after=sum(
                heard_s is not None and event.name.startswith(STEP) and event.at_s > heard_s
                for event in mine
            ),
            later={
                event.name
                for event in events
                if event.at_s > given_up_s and (event in mine or event.name == DECODE_BEGUN)
            },
            job_status=call.job_status(),
        )

    def draw(self) -> int:
        """Draw a picture to its end, and return the answer's status."""
        body = _to_body("to its end", next(self._seeds), Stage.DENOISING)
        url = f"{self.service.url}/v1/images/generations"
        return httpx.post(url, json=body, timeout=WITHIN_S).status_code

    @contextlib.contextmanager
    def _obstacle(self, stage: Stage) -> Iterator[None]:
        """Hold calls back in a stage that has no time of its own."""
        if stage is Stage.STORING:
            self.store.pause()
            try:
                yield
            finally:
                self.store.resume()
        elif stage is Stage.QUEUED:
            seed, begun_s = next(self._seeds), time.monotonic()
            body = {
                **_to_body("in front", seed, stage),
                "size": "2048x2048",
                "priority": "interactive",
            }
            call = _Call(self.service, Way.STREAM, {**body, "num_inference_steps": 50})
            self.service.logs.wait_for(f"{STEP} 1", after_s=begun_s, subject=str(seed))
            try:
                yield
            finally:
                call.close()
                self.service.logs.wait_for(LET_GO, after_s=begun_s, subject=str(seed))
        else:
            yield

    def _await_stage(self, stage: Stage, prompt: str, seed: int, begun_s: float) -> None:
        name, subject = {
            Stage.QUEUED: (ADMITTED, str(seed)),
            Stage.ENCODING: (ENCODE_BEGUN, prompt),
            Stage.DENOISING: (f"{STEP} 2", str(seed)),
            Stage.DECODING: (DECODE_BEGUN, None),
            Stage.STORING: (DECODED, None),
        }[stage]
        self.service.logs.wait_for(name, after_s=begun_s, subject=subject)
        if stage is Stage.STORING:
            time.sleep(_UPLOAD_S)

    def _await_free(self, stage: Stage, prompt: str, seed: int, begun_s: float) -> float | None:
        if stage is Stage.STORING:
            return None
        name, subject = {
            Stage.QUEUED: (LET_GO, str(seed)),
            Stage.ENCODING: (ENCODED, prompt),
            Stage.DENOISING: (LET_GO, str(seed)),
            Stage.DECODING: (DECODED, None),
        }[stage]
        return self.service.logs.wait_for(name, after_s=begun_s, subject=subject).at_s

    def _await_end(self, request_id: str) -> UsageRecord:
        deadline = time.monotonic() + WITHIN_S
        while True:
            for path in find_journals(self.journals):
                for record in read_journal(path):
                    if record.request_id == request_id and not record.is_open:
                        return record
            assert time.monotonic() < deadline, f"call {request_id} did not end"
            time.sleep(0.002)


class _Call:
    """A call over a connection of its own, which nobody reads."""

    def __init__(self, service: PacedService, way: Way, body: dict[str, Any]) -> None:
        self.request_id = f"cancelled-{body['seed']}"
        self._url = service.url
        self._is_job = way is Way.JOB
        self._connection = socket.create_connection(("127.0.0.1", service.port), timeout=WITHIN_S)
        if self._is_job:
            answer = httpx.post(
                f"{self._url}/v1/images/jobs",
                json=body,
                headers={"x-request-id": self.request_id},
                timeout=WITHIN_S,
            )
            self._job_id = answer.raise_for_status().json()["id"]
        else:
            self._send({**body, "stream": way is Way.STREAM})

    def give_up(self) -> None:
        """Leave, or delete the job."""
        if self._is_job:
            httpx.delete(self._job_url, timeout=WITHIN_S).raise_for_status()
        else:
            self._connection.close()

    def close(self) -> None:
        self._connection.close()

    def job_status(self) -> str | None:
        """Return what the service says of the job, if it is one."""
        if not self._is_job:
            return None
        return str(httpx.get(self._job_url, timeout=WITHIN_S).raise_for_status().json()["status"])

    @property
    def _job_url(self) -> str:
        return f"{self._url}/v1/images/jobs/{self._job_id}"

    def _send(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        head = (
            "POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\nx-request-id: {self.request_id}\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        self._connection.sendall(head.encode() + content)


def _to_body(prompt: str, seed: int, stage: Stage) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "seed": seed,
        "size": "1024x1024",
        "priority": "batch" if stage is Stage.QUEUED else "interactive",
        "timeout_s": 300,
    }


@contextlib.contextmanager
def run_bench(folder: Path, weed: str, *, num_routers: int = 1) -> Iterator[Bench]:
    """Run a service that stores in S3 until the context ends."""
    store = S3Server(weed, folder / "s3")
    environment = {**WRITER.environment, "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        store.start()
        store.create_bucket(BUCKET)
        with _environment(environment):
            config = _to_config(folder, store, num_routers)
            with run_paced_service(config, folder / "stages", TIMES) as service:
                _await_picture(service)
                yield Bench(service, store, folder / "journal", count(1))
    finally:
        store.kill()


def _to_config(folder: Path, store: S3Server, num_routers: int) -> AppConfig:
    pool = {
        "profile": "h800",
        "accelerator": "H200",
        "device": "cpu",
        "step_loop": {"held_units": 4096},
    }
    return AppConfig.model_validate(
        {
            "router": {"num_replicas": num_routers},
            "calls": {"by_value": "all"},
            "pools": [pool],
            "store": {"kind": "s3", "bucket": BUCKET, "endpoint_url": store.endpoint_url},
            "jobs": {"store": {"path": str(folder / "jobs.sqlite3")}},
            "usage": {
                "enabled": True,
                "journal": str(folder / "journal"),
                "export": {"folder": str(folder / "usage")},
                "export_period_s": 3600,
            },
        }
    )


def _await_picture(service: PacedService) -> None:
    deadline = time.monotonic() + WITHIN_S
    while httpx.get(f"{service.url}/readyz", timeout=WITHIN_S).status_code != 200:
        assert time.monotonic() < deadline, "the service draws nothing"
        time.sleep(0.1)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
