"""Two real Redis servers, the second of which takes over while the first lives on."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis
from redis_server import PASSWORD, RedisServer, run_redis

SOCKET = "redis.sock"


@dataclass
class RedisPair:
    """One address that leads to the primary, as a service of Kubernetes does."""

    link: Path
    old: RedisServer
    new: RedisServer

    @property
    def url(self) -> str:
        return f"unix://:{PASSWORD}@{self.link}"

    def fail_over(self) -> None:
        """Make the first a read-only replica; connections to it stay open."""
        self.link.unlink()
        self.link.symlink_to(self.new.folder / SOCKET)
        with redis.Redis.from_url(self.old.url) as client:
            client.config_set("masterauth", PASSWORD)
            client.replicaof("127.0.0.1", str(self.new.port))


@contextlib.contextmanager
def run_pair(folder: Path, settings: Mapping[str, str]) -> Iterator[RedisPair]:
    """Run both until the context ends."""
    with contextlib.ExitStack() as running:
        old, new = (running.enter_context(_run(folder / name, settings)) for name in ("old", "new"))
        link = folder / SOCKET
        link.symlink_to(old.folder / SOCKET)
        yield RedisPair(link, old, new)


@contextlib.contextmanager
def _run(folder: Path, settings: Mapping[str, str]) -> Iterator[RedisServer]:
    folder.mkdir()
    with run_redis(folder, {**settings, "unixsocket": str(folder / SOCKET)}) as server:
        yield server
