"""The durable Redis as base starts it: its own configuration and its own command."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from service import free_port

from tests.k8s.manifests import find_all
from tests.k8s.waiting import wait_until


@contextmanager
def durable_redis(folder: Path, *, password: str) -> Iterator[str]:
    """Run it on this machine and yield the address in the form that the RayService has."""
    port = free_port()
    (manifest,) = find_all("base", "StatefulSet")
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    shell, option, script = container["command"]
    settings = (folder / "redis.conf").absolute()
    settings.write_text(
        f"{_settings().replace('dir /data', f'dir {folder}')}\nport {port}\nbind 127.0.0.1\n"
    )
    script = script.replace("valkey-server", "redis-server").replace(
        "/etc/redis/redis.conf", str(settings)
    )
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [shell, option, script],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "REDIS_PASSWORD": password},
        )
    client = redis.Redis(port=port, password=password)
    try:
        wait_until(lambda: _answers(client), within_s=10, what="Redis")
        yield f"redis://127.0.0.1:{port}"
    finally:
        client.close()
        process.terminate()
        process.wait()


def _settings() -> str:
    (settings,) = [
        each["data"]["redis.conf"]
        for each in find_all("base", "ConfigMap")
        if each["metadata"]["name"].startswith("redis-durable")
    ]
    return str(settings)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError as exc:
        raise OSError(str(exc)) from exc
