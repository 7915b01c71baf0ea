"""A Ray cluster for one command: one of its own, or one that is named."""

import contextlib
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import ray
from ray import serve

from deployments.calls_config import MESSAGE_LIMIT
from deployments.commands.mixed_nodes import HEAD_LABELS, worker_nodes
from deployments.config_file import ConfigurationError

logging.getLogger("ray.serve").setLevel(logging.WARNING)

_ADDRESS: Final = re.compile(r"(?:ray://)?(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_LAST_PORT: Final = 65_535

_BY_VALUE: Final = {"RAY_SERVE_PROXY_USE_GRPC": "1", **MESSAGE_LIMIT}
"""Makes the HTTP proxy call the router by value, and lets replicas call each other so."""

_ONE_LOOP: Final = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""A call passes from thread to thread in every replica unless Serve and the deployment share an
event loop. They may: what takes long here has threads of its own."""

_OWN_POLLING: Final = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}
"""Whoever waits for gRPC polls its sockets itself; gRPC's event engine passes each message through
threads of its own. A version that knows neither name says so in its log, and goes on."""

_SHORT_WAITS: Final = {"GOMP_SPINCOUNT": "10000"}
"""How long OpenMP's threads spin once an operation has ended: a fraction of a millisecond. By
default every core is busy with that for milliseconds, just when the next stage wants one."""

_NO_COPY: Final = {"RAY_SERVE_LOG_TO_STDERR": "0"}
"""Each line goes to a file; Ray would keep what goes to stderr in a second one."""

_CHECKED_IDS: Final = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy_headers.proxy_middlewares"
}
"""Ray's proxy echoes whatever request id it was given."""


def check_address(address: str) -> None:
    """Refuse what names no cluster, which Ray would find out after everything else.

    Raises:
        ConfigurationError: If it is neither `auto` nor a host and a port.
    """
    found = _ADDRESS.fullmatch(address)
    if address != "auto" and not (found and 0 < int(found[1]) <= _LAST_PORT):
        raise ConfigurationError(
            f"--address must be auto, HOST:PORT or ray://HOST:PORT, got {address!r}"
        )


@contextlib.contextmanager
def ray_cluster(
    address: str | None, metrics_port: int | None = None, *, is_mixed: bool = False
) -> Iterator[None]:
    """Join the cluster at `address`, or start one that ends with the context.

    One that is mixed has further nodes, labelled as those of a cluster with GPUs are.
    """
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    defaults = _BY_VALUE | _ONE_LOOP | _OWN_POLLING | _SHORT_WAITS | _NO_COPY | _CHECKED_IDS
    with _environment_with(defaults), _own_cluster(metrics_port, is_mixed=is_mixed):
        yield


@contextlib.contextmanager
def _own_cluster(metrics_port: int | None, *, is_mixed: bool) -> Iterator[None]:
    # Ray's sockets lie below this folder, and a socket's path has 107 characters at most.
    folder = tempfile.mkdtemp(prefix="zimage-", dir="/tmp")
    try:
        ray.init(
            address="local",
            _temp_dir=folder,
            include_dashboard=False,
            _metrics_export_port=metrics_port,
            # One event a call, of which Ray's control store keeps the last 100,000: hundreds of MB.
            _system_config={"task_events_report_interval_ms": 0},
            labels=dict(HEAD_LABELS) if is_mixed else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        with worker_nodes(Path(folder)) if is_mixed else contextlib.nullcontext():
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment_with(values: Mapping[str, str]) -> Iterator[None]:
    """Give the processes that start in the context these variables; what is set already wins."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def shut_down_serve(*, within_s: float) -> None:
    """End Serve, but wait no longer than `within_s`: the cluster's end takes the rest."""
    thread = threading.Thread(target=serve.shutdown, daemon=True)
    thread.start()
    thread.join(within_s)
