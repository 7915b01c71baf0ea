"""A real Prometheus that scrapes one exporter each second."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from service import free_port


@dataclass(frozen=True)
class PrometheusServer:
    """A running server."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query, or raise what the server says is wrong."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        if answer["status"] != "success":
            raise AssertionError(f"{expression}: {answer['error']}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def query_range(
        self, expression: str, *, start_s: float, end_s: float, step_s: float
    ) -> list[dict[str, Any]]:
        """Return the series of a query over time, or raise what the server says is wrong."""
        times = {"start": start_s, "end": end_s, "step": step_s}
        answer = httpx.get(
            f"{self.url}/api/v1/query_range", params={"query": expression, **times}, timeout=30
        ).json()
        if answer["status"] != "success":
            raise AssertionError(f"{expression}: {answer['error']}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def await_result(self, expression: str, *, within_s: float = 60.0) -> list[dict[str, Any]]:
        """Query until there is a result."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if result := self.query(expression):
                    return result
            time.sleep(0.2)
        raise AssertionError(f"no result of {expression}")


@contextlib.contextmanager
def run_prometheus(command: str, folder: Path, metrics_port: int) -> Iterator[PrometheusServer]:
    """Scrape an exporter on this machine until the context ends."""
    folder.mkdir()
    scrape = {
        "job_name": "ray",
        "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}],
    }
    settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port()
    process = subprocess.Popen(
        [
            command,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield PrometheusServer(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
