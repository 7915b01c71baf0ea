"""A real Redis on a free port."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import redis
from service import free_port

READY_WITHIN_S: Final = 20.0
PASSWORD: Final = "secret-of-the-test"
DURABLE: Final = {"appendonly": "yes", "maxmemory-policy": "noeviction"}


@dataclass
class RedisServer:
    """A server that can be killed and started again on the same data."""

    folder: Path
    port: int
    settings: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed")
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "requirepass": PASSWORD,
            **self.settings,
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([binary, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_WITHIN_S
        with contextlib.closing(redis.Redis.from_url(self.url)) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(redis.RedisError):
                    client.ping()
                    return
                time.sleep(0.02)
        raise AssertionError(f"Redis did not start:\n{(self.folder / 'redis.log').read_text()}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def run_redis(folder: Path, settings: Mapping[str, str] = DURABLE) -> Iterator[RedisServer]:
    """Run Redis until the context ends."""
    server = RedisServer(folder, free_port(), settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
