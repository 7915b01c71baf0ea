"""A Ray cluster on this machine whose autoscaler starts and ends nodes, without any cloud.

Ray's own `AutoscalingCluster` runs `ray stop --force`, which ends everybody's Ray on the machine,
and reads a file that is not in the wheel.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import yaml
from service import free_port

_HEAD_ID: Final = "f" * 51 + "00000"
_HOST: Final = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the machine's public address, and other loopback addresses not."""
_STARTED_WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class AutoscaledRay:
    """A running head, and whatever nodes its autoscaler has started."""

    address: str
    log: Path

    def count_workers(self) -> int:
        """Count the nodes beside the head: each has a raylet that names the cluster's address."""
        commands = (each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"]))
        return sum(map(self._is_raylet, commands)) - 1

    def _is_raylet(self, command: list[str]) -> bool:
        is_raylet = bool(command) and Path(command[0]).name == "raylet"
        return is_raylet and f"--gcs-address={self.address}" in command


@contextlib.contextmanager
def run_autoscaled_ray(
    folder: Path, node_types: dict[str, dict[str, Any]]
) -> Iterator[AutoscaledRay]:
    """Run a head, and what its autoscaler starts beside it, until the context ends."""
    address = f"{_HOST}:{free_port()}"
    config = folder / "autoscaling.yaml"
    config.write_text(yaml.safe_dump(_autoscaling_config(address, node_types)))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        f"--node-ip-address={_HOST}",
        f"--port={address.rpartition(':')[2]}",
        f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
        f"--temp-dir={folder / 'ray'}",
        f"--autoscaling-config={config}",
        "--include-dashboard=false",
        "--object-store-memory=100000000",
        "--num-cpus=2",
        "--labels=pool=cpu",
    ]
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
        "RAY_AUTH_MODE": "disabled",
        # A node without replicas keeps its HTTP proxy for so long, and is not idle before.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "2",
    }
    log = folder / "ray.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        _wait_for_port(address, process, log)
        yield AutoscaledRay(address, log)
    finally:
        root = psutil.Process(process.pid)
        for member in (*root.children(recursive=True), root):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def _autoscaling_config(address: str, node_types: dict[str, dict[str, Any]]) -> dict[str, Any]:
    head = {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0, "labels": {"pool": "cpu"}}
    return {
        "cluster_name": "fake",
        "max_workers": sum(each["max_workers"] for each in node_types.values()),
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": _HEAD_ID,
            "gcs_address": address,
            "launch_multiple": True,
            # The provider starts Ray itself; there is no machine to log into.
            "disable_node_updaters": True,
        },
        "available_node_types": {"ray.head.default": head, **node_types},
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _wait_for_port(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN_S
    while "--block" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
