"""The head's init step, against a real S3 server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from service import free_port

from tests.k8s.manifests import MANIFESTS
from tests.k8s.slow_store import slow_store
from tests.k8s.waiting import wait_until

pytestmark = pytest.mark.storage

KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret123"}
SCRIPT = MANIFESTS / "base" / "weights" / "fetch.py"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("s3")
    port = free_port()
    identity = {
        "name": "app",
        "credentials": [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": "testsecret123"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [*_command(folder, port)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    environment = {
        **os.environ,
        **KEYS,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
    }
    try:
        wait_until(lambda: _fill_bucket(environment), within_s=60, what="the S3 server")
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(folder: Path, port: int) -> list[str]:
    ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
    grpc = [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
    return [
        "weed",
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.port={port}",
        f"-s3.config={folder / 'identities.json'}",
        "-s3.port.iceberg=0",
        "-volume.max=100",
        "-master.volumeSizeLimitMB=64",
        "-master.electionTimeout=1s",
        "-master.heartbeatInterval=200ms",
        *ports,
        *grpc,
    ]


def _fill_bucket(environment: dict[str, str]) -> bool:
    client: Any = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    try:
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket="weights")
        client.put_object(Bucket="weights", Key="model/model_index.json", Body=b"{}")
        client.put_object(Bucket="weights", Key="model/vae/a.safetensors", Body=b"weights")
        client.put_object(Bucket="weights", Key="model-2/model_index.json", Body=b"{}")
        client.put_object(Bucket="weights", Key="not-a-model/readme.txt", Body=b"x")
    except (BotoCoreError, ClientError) as exc:
        raise OSError(str(exc)) from exc
    return True


def settings_of(source: str, target: Path) -> dict[str, str]:
    return {"WEIGHTS_SOURCE": source, "WEIGHTS_FOLDER": str(target)}


def run_fetch(
    environment: dict[str, str], source: str, target: Path
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**environment, **settings_of(source, target)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_prefix_becomes_a_folder(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "model"

    result = run_fetch(environment, "s3://weights/model", target)

    assert result.returncode == 0, result.stderr
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "model/.source",
        "model/model_index.json",
        "model/vae/a.safetensors",
    }


def test_what_is_there_is_left_alone(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "model_index.json").write_text("mine")

    result = run_fetch(environment, "s3://weights/model", target)

    assert "already there" in result.stderr
    assert [path.name for path in target.iterdir()] == ["model_index.json"]


def test_a_folder_is_not_given_a_second_source(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "model"
    results = [
        run_fetch(environment, f"s3://weights/{name}", target)
        for name in ("model", "model", "model-2")
    ]

    assert [each.returncode for each in results] == [0, 0, 1]
    assert "must hold s3://weights/model-2, got s3://weights/model:" in results[-1].stderr
    assert (target / "vae" / "a.safetensors").is_file()
    assert list(tmp_path.iterdir()) == [target]


def test_both_revisions_stay_for_a_roll_back(environment: dict[str, str], tmp_path: Path) -> None:
    names = ("model", "model-2", "model")
    results = [run_fetch(environment, f"s3://weights/{each}", tmp_path / each) for each in names]

    assert [each.returncode for each in results] == [0, 0, 0]
    assert "already there" in results[-1].stderr


def test_what_killed_downloads_left_is_removed_after_an_hour(
    environment: dict[str, str], tmp_path: Path
) -> None:
    long_ago = time.time() - 2 * 3600
    for name in (".model-killed-7", ".model-running-7"):
        (tmp_path / name / "vae").mkdir(parents=True)
        (tmp_path / name / "vae" / "part").write_text("x")
        for path in (tmp_path / name / "vae" / "part", tmp_path / name / "vae", tmp_path / name):
            os.utime(path, (long_ago, long_ago))
    (tmp_path / ".model-running-7" / "vae" / "part").touch()

    run_fetch(environment, "s3://weights/model", tmp_path / "model")

    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model-running-7"}


def test_a_download_that_is_stopped_leaves_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with slow_store() as url:
        settings = settings_of("s3://weights/model", tmp_path / "model")
        variables = {**environment, **settings, "AWS_ENDPOINT_URL_S3": url}
        with subprocess.Popen([sys.executable, str(SCRIPT)], env=variables) as process:
            wait_until(lambda: any(tmp_path.iterdir()), within_s=60, what="the download")
            process.terminate()

    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_a_model_leaves_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    result = run_fetch(environment, "s3://weights/not-a-model", tmp_path / "model")

    assert "source must hold model_index.json" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_kind_of_source_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    result = run_fetch(environment, "ftp://weights/model", tmp_path / "model")

    assert "source must start with hf:// or s3://, got 'ftp://weights/model'" in result.stderr
