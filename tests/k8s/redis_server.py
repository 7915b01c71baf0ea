"""Both Redis servers as base starts them: their own configuration and their own commands."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
from service import free_port

from tests.k8s.manifests import containers, find_all, worker_groups
from tests.k8s.waiting import wait_until

DURABLE: Final = "redis-durable"
CACHE: Final = "redis-cache"


@contextmanager
def redis_of_base(name: str, folder: Path, *, password: str) -> Iterator[str]:
    """Run one on this machine and yield the address in the form that the RayService has."""
    folder.mkdir()
    port = free_port()
    (manifest,) = [
        each
        for kind in ("StatefulSet", "Deployment")
        for each in find_all("base", kind)
        if each["metadata"]["name"] == name
    ]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    shell, option, script = container["command"]
    settings = (folder / "redis.conf").absolute()
    own = _settings(name).replace("dir /data", f"dir {folder}")
    settings.write_text(f"{own}\nport {port}\nbind 127.0.0.1\n")
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


def redis_urls(addresses: Mapping[str, str], password: str) -> dict[str, str]:
    """Return the URLs that base's pods have in variables, at the servers that are here."""
    (container,) = containers(worker_groups("base")["cpu"]["template"]["spec"])
    urls = {
        each["name"]: each["value"].replace("$(REDIS_CLIENT_PASSWORD)", password)
        for each in container["env"]
        if each["name"].endswith("_URL")
    }
    for name, address in addresses.items():
        place = address.removeprefix("redis://")
        urls = {key: url.replace(f"{name}:6379", place) for key, url in urls.items()}
    return urls


def _settings(name: str) -> str:
    (settings,) = [
        each["data"]["redis.conf"]
        for each in find_all("base", "ConfigMap")
        if each["metadata"]["name"].startswith(name)
    ]
    return str(settings)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError as exc:
        raise OSError(str(exc)) from exc
