"""A whole service on Ray Serve over paced models."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from paced_models import PacedLoader, StageTimes
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from service import free_port
from stage_log import StageLogs

from deployments.app import bind_app
from deployments.commands.cluster import ray_cluster, shut_down_serve
from deployments.config import AppConfig

_SUPPORT = Path(__file__).parent


@dataclass(frozen=True)
class PacedService:
    """A running service."""

    port: int
    logs: StageLogs

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def run_paced_service(
    config: AppConfig, logs: Path, times: StageTimes | None = None
) -> Iterator[PacedService]:
    """Run a service in a cluster of its own until the context ends; `logs` is made."""
    with run_service_over(PacedLoader.to_folder(logs, times), config) as service:
        yield service


@contextlib.contextmanager
def run_service_over(load: PacedLoader, config: AppConfig) -> Iterator[PacedService]:
    """Run a service over what a loader loads."""
    port = free_port()
    with pytest.MonkeyPatch.context() as environment:
        # Ray's workers would stand back behind the callers, who share the machine in tests alone.
        environment.setenv("RAY_worker_niceness", "0")
        # Replicas import the paced models by name.
        paths = [str(_SUPPORT), str(_SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")]
        environment.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        with ray_cluster(None):
            serve.start(
                http_options=HTTPOptions(port=port),
                logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
            )
            try:
                serve.run(bind_app(config, load, load.describe()), name="zimage")
                yield PacedService(port, StageLogs(load.log))
            finally:
                shut_down_serve(within_s=60.0)
