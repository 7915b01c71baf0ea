"""Usage records in a real S3 store: an object an hour and process, each record at least once."""

import boto3
import pytest
from s3_server import WRITER, S3Server
from usage_records import make_record

from cluster.telemetry import Outcome
from cluster.usage import BucketExporter, UsageRecord
from deployments.telemetry_config import UsageS3Config
from deployments.usage_ledger import build_exporter

pytestmark = pytest.mark.storage

BUCKET = "images"


@pytest.fixture
def exporter(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> BucketExporter:
    for name, value in WRITER.environment.items():
        monkeypatch.setenv(name, value)
    config = UsageS3Config(kind="s3", bucket=BUCKET, endpoint_url=s3_server.endpoint_url)
    exporter = build_exporter(config)
    assert isinstance(exporter, BucketExporter)
    return exporter


def at(record_id: str, hour: int) -> UsageRecord:
    ended_at = f"2026-11-25T{hour:02}:30:00.000+00:00"
    return make_record(record_id, outcome=Outcome.SUCCEEDED, ended_at=ended_at)


def read_objects(server: S3Server, prefix: str) -> dict[str, list[str]]:
    """Return the ids in each object."""
    client = boto3.Session().client("s3", endpoint_url=server.endpoint_url)
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    bodies = {
        each["Key"]: client.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read().decode()
        for each in listed.get("Contents", [])
    }
    return {
        key.removeprefix(prefix): [UsageRecord.from_line(line).id for line in body.splitlines()]
        for key, body in bodies.items()
    }


def test_the_running_hours_object_grows_and_late_records_replace_nothing(
    exporter: BucketExporter, s3_server: S3Server
) -> None:
    exporter.export([at("a", 8)])
    exporter.export([at("b", 8), at("c", 9)])
    exporter.export([at("late", 8), at("d", 9)])

    objects = read_objects(s3_server, "usage/2026-11-25T")

    hours = sorted((name[:2], ids) for name, ids in objects.items())
    assert hours == [("08", ["a", "b"]), ("08", ["late"]), ("09", ["c", "d"])]
