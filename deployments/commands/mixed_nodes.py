"""The worker nodes of `run --mixed`: Ray nodes on this machine, labelled as if they had GPUs.

The GPUs are numbers to place by; every stage computes on the CPU.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

from cluster.labels import ACCELERATOR_LABEL, POOL_LABEL
from cluster.profiles import CONSUMER_16GB, CPU, H800
from deployments.commands.machine import LOCAL_DRAIN_S

_STARTED_WITHIN_S: Final = 120.0
_STOPPED_WITHIN_S: Final = 10.0
_OBJECT_STORE_BYTES: Final = 100_000_000
_POLL_S: Final = 0.2


@dataclass(frozen=True)
class WorkerNode:
    """One Ray node with one GPU that is none."""

    name: str
    profile: str
    accelerator: str

    @property
    def labels(self) -> str:
        """Its labels, as `ray start` takes them."""
        return f"{POOL_LABEL}={self.profile},{ACCELERATOR_LABEL}={self.accelerator}"


HEAD_LABELS: Final = {POOL_LABEL: CPU.name}
WORKER_NODES: Final = (
    WorkerNode("h800", H800.name, "H800"),
    WorkerNode("consumer-1", CONSUMER_16GB.name, "GeForce-RTX-4080"),
    WorkerNode("consumer-2", CONSUMER_16GB.name, "GeForce-RTX-4080"),
)


def mixed_defaults() -> dict[str, Any]:
    """Return the configuration of one pool a kind of node, at the embedded model's sizes.

    The tiled pool draws up to 256 pixels whole, as a 16 GB card does up to 768.
    """
    on_head = {"label_selector": {POOL_LABEL: CPU.name}}
    stage = {**on_head, "num_gpus": 0, "device": "cpu"}
    pool = {
        "num_gpus": 1,
        "device": "cpu",
        "accelerator": "CPU",
        "graceful_shutdown_timeout_s": LOCAL_DRAIN_S,
    }
    return {
        "router": on_head,
        "text_encoder": stage,
        "vae_decoder": stage,
        "pools": [
            {
                **pool,
                "name": H800.name,
                "profile": H800.name,
                "label_selector": {POOL_LABEL: H800.name},
            },
            {
                **pool,
                "name": CONSUMER_16GB.name,
                "profile": CONSUMER_16GB.name,
                "path": "tiled",
                "label_selector": {POOL_LABEL: CONSUMER_16GB.name},
                "num_threads": 1,
                "min_replicas": 2,
                "max_replicas": 2,
                "tiling": {"tile_size": 32, "overlap": 8, "base_max_pixels": 256 * 256},
            },
        ],
    }


@contextlib.contextmanager
def worker_nodes(folder: Path) -> Iterator[None]:
    """Run the worker nodes beside the head that this process is joined to.

    Raises:
        OSError: If one does not join in time; the message has the end of its log.
    """
    with contextlib.ExitStack() as stack:
        for node in WORKER_NODES:
            stack.enter_context(_run_node(node, folder))
        _wait_for_nodes(1 + len(WORKER_NODES), folder)
        yield


@contextlib.contextmanager
def _run_node(node: WorkerNode, folder: Path) -> Iterator[None]:
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
        f"--address={ray.get_runtime_context().gcs_address}",
        f"--temp-dir={folder / node.name}",
        f"--labels={node.labels}",
        "--num-cpus=1",
        "--num-gpus=1",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]
    with _log_of(node, folder).open("wb") as log:
        # A group of its own: Ctrl-C at the terminal is for the service, which then ends its nodes.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_nodes(count: int, folder: Path) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN_S
    while sum(node["Alive"] for node in ray.nodes()) < count:  # type: ignore[no-untyped-call]
        if time.monotonic() > deadline:
            ends = [_log_of(node, folder).read_text("utf-8")[-500:] for node in WORKER_NODES]
            raise OSError("a node did not join the cluster: " + "\n".join(ends))
        time.sleep(_POLL_S)


def _log_of(node: WorkerNode, folder: Path) -> Path:
    return folder / f"{node.name}.log"
