"""A Ray cluster on this machine with a node for each of its cards, for a benchmark of its own."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, LoggingConfig

from cluster.labels import POOL_LABEL
from cluster.profiles import CPU

_ROOT: Final = Path(__file__).parents[2]
_STARTED_WITHIN_S: Final = 90.0
_STOPPED_WITHIN_S: Final = 10.0
_OBJECT_STORE_BYTES: Final = 1_000_000_000


@dataclass(frozen=True)
class CardNode:
    """One Ray node with one GPU."""

    name: str
    labels: Mapping[str, str]
    gpu: int | None
    """Its index on this machine; None is a GPU to place by, that is none."""
    num_cpus: int = 8


def say(text: str) -> None:
    """Print a line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def run_card_cluster(nodes: Sequence[CardNode], *, num_head_cpus: int = 8) -> Iterator[Path]:
    """Run a head without a GPU, and the nodes, until the context ends; gives the head's folder.

    Whatever process was started below this one ends with the context.
    """
    # Ray's sockets lie below this folder, and a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="cards-", dir="/tmp"))
    _set_environment()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        _start_head(folder, num_head_cpus)
        say("head is up")
        processes += [_start_node(node, folder) for node in nodes]
        _wait_for_nodes(nodes, folder)
        say(f"{len(nodes)} nodes have joined")
        yield folder
    finally:
        children = psutil.Process().children(recursive=True)
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOPPED_WITHIN_S)
        ray.shutdown()
        _end_all(children)
        shutil.rmtree(folder, ignore_errors=True)
        say("all processes have ended")


def run_applications(
    targets: Mapping[str, serve.Application], *, port: int | None = None, within_s: float
) -> None:
    """Run applications; the only one, or the one named first, gets HTTP if there is a port.

    Raises:
        TimeoutError: If one is not running in time, with what Serve says of it.
        RuntimeError: If one cannot be deployed.
    """
    serve.start(
        proxy_location=ProxyLocation.Disabled if port is None else ProxyLocation.HeadOnly,
        http_options=HTTPOptions(port=port or 8000),
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    first = next(iter(targets))
    serve.run_many(
        [
            serve.RunTarget(
                target,
                name=name,
                route_prefix="/" if port is not None and name == first else None,
                logging_config=LoggingConfig(enable_access_log=False),
            )
            for name, target in targets.items()
        ],
        wait_for_applications_running=False,
    )
    wait_until(lambda: _are_running(targets), within_s, lambda: _describe(targets))


def wait_until(is_true: Callable[[], bool], within_s: float, describe: Callable[[], str]) -> None:
    """Wait for something.

    Raises:
        TimeoutError: If it does not come true in time.
    """
    deadline = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s: {describe()}")
        time.sleep(0.25)


def _set_environment() -> None:
    support = _ROOT / "tests" / "support"
    paths = [str(support), str(_ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ |= {
        # Replicas import the support's modules by name.
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # What the machine says of its memory may be less than it has.
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _start_head(folder: Path, num_cpus: int) -> None:
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    # What runs on the head is to see no GPU, reserved or not.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        ray.init(
            address="local",
            _temp_dir=str(folder),
            include_dashboard=False,
            num_cpus=num_cpus,
            num_gpus=0,
            object_store_memory=_OBJECT_STORE_BYTES,
            labels={POOL_LABEL: CPU.name},
            _system_config={"task_events_report_interval_ms": 0},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if seen is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = seen


def _start_node(node: CardNode, folder: Path) -> "subprocess.Popen[bytes]":
    labels = ",".join(f"{key}={value}" for key, value in node.labels.items())
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
        f"--address={ray.get_runtime_context().gcs_address}",
        f"--temp-dir={folder / node.name}",
        f"--labels={labels}",
        f"--num-cpus={node.num_cpus}",
        "--num-gpus=1",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]
    environment = dict(os.environ)
    if node.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(node.gpu)
    with (folder / f"{node.name}.log").open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def _wait_for_nodes(nodes: Sequence[CardNode], folder: Path) -> None:
    def have_joined() -> bool:
        known: Any = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's is untyped
        return len([node for node in known if node["Alive"]]) > len(nodes)

    def describe() -> str:
        return "\n".join((folder / f"{node.name}.log").read_text()[-1500:] for node in nodes)

    wait_until(have_joined, _STARTED_WITHIN_S, describe)


def _are_running(targets: Mapping[str, serve.Application]) -> bool:
    applications = serve.status().applications
    for name in targets:
        if name in applications and applications[name].status is ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(_describe([name]))
    return all(
        name in applications and applications[name].status is ApplicationStatus.RUNNING
        for name in targets
    )


def _describe(names: Mapping[str, Any] | list[str]) -> str:
    lines = []
    for name, application in serve.status().applications.items():
        if name not in names or application.status is ApplicationStatus.RUNNING:
            continue
        lines.append(f"{name}: {application.status.value} {application.message}")
        lines += [
            f"  {each}: {deployment.status.value} {deployment.message}"
            for each, deployment in application.deployments.items()
        ]
    return "\n".join(lines)


def _end_all(processes: Sequence[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=5.0)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)
