"""The cluster that base describes, on one machine: a process group a pod, labels and all."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import yaml
from service import free_port

from tests.k8s.manifests import REPOSITORY, Manifest
from tests.k8s.waiting import wait_until

_HOST: Final = "127.0.0.1"
_NODE: Final = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the machine's public address, and other loopback addresses not."""
_STARTED_WITHIN_S: Final = 180.0
_ENDED_WITHIN_S: Final = 60.0
_CONTROLLER: Final = "*/session_2*/logs/serve/controller_*.log"
_BIN: Final = Path(sys.executable).parent


@dataclass(frozen=True)
class Pod:
    """What one Ray node needs to know; the same pod can start a second time."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class LocalCluster:
    """A head that keeps its state in Redis, and workers that outlive it."""

    def __init__(
        self,
        folder: Path,
        *,
        redis_address: str,
        redis_password: str,
        environment: Mapping[str, str],
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.http_port = free_port()
        self.url = f"http://{_HOST}:{self.http_port}"
        self._folder = folder
        self._token = secrets.token_hex(32)
        self._gcs = f"{_NODE}:{free_port()}"
        self._dashboard = f"http://{_HOST}:{free_port()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0
        self._redis_password = redis_password
        self._wrapper = wrapper
        self._environment = {
            **os.environ,
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # All pods share one address here: workers' proxies share a port that the head's,
            # which the Kubernetes service leaves out too, does not have.
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self.http_port),
            # KubeRay gives workers ten minutes for the head to come back.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self._head_environment = {"RAY_REDIS_ADDRESS": redis_address}

    def start_head(self, group: Manifest) -> None:
        """Start GCS, dashboard and raylet, and wait until the dashboard takes a configuration."""
        parameters = [f"--{key}={value}" for key, value in _local(group["rayStartParams"]).items()]
        port = self._dashboard.rpartition(":")[2]
        arguments = (
            "--head",
            f"--port={self._gcs.rpartition(':')[2]}",
            f"--redis-password={self._redis_password}",
            f"--dashboard-port={port}",
            f"--ray-client-server-port={free_port()}",
            *parameters,
        )
        pod = Pod("head", arguments, self._head_environment)
        self._start(pod)
        wait_until(
            lambda: self._stays_up(pod) and self._takes_configurations(),
            within_s=_STARTED_WITHIN_S,
            what="the dashboard",
            explain=self.logs,
        )

    def start_worker(self, group: Manifest, *, num_gpus: int, num_cpus: int = 1) -> None:
        """Start a worker of one group with its labels."""
        labels = ",".join(f"{key}={value}" for key, value in group["labels"].items())
        arguments = (
            f"--address={self._gcs}",
            f"--labels={labels}",
            f"--num-cpus={num_cpus}",
            f"--num-gpus={num_gpus}",
        )
        self._start(Pod(group["groupName"], arguments))

    def kill_head(self) -> None:
        """End everything that runs in the head's pod, at once."""
        _kill_tree(self._processes.pop("head"))

    def kill_control_store(self) -> None:
        """End the head's control store alone, and wait for its pod to end with it."""
        head = self._processes.pop("head")
        [store] = [
            process
            for process in psutil.Process(head.pid).children(recursive=True)
            if process.name() == "gcs_server"
        ]
        store.kill()
        head.wait(_ENDED_WITHIN_S)

    def processes(self) -> list[psutil.Process]:
        """Return what runs in the pods."""
        pods = [psutil.Process(each.pid) for each in self._processes.values()]
        return [process for pod in pods for process in (pod, *pod.children(recursive=True))]

    def stop(self) -> None:
        """End every pod."""
        for process in self._processes.values():
            _kill_tree(process)
        self._processes.clear()

    def deploy(self, config: Manifest) -> None:
        """Hand a configuration to `serve deploy`, until it is taken, as KubeRay does."""
        path = self._folder / "serve-config.yaml"
        path.write_text(yaml.safe_dump(config), "utf-8")
        command = [str(_BIN / "serve"), "deploy", str(path), "--address", self._dashboard]
        log = self._folder / "serve-deploy.log"

        def is_taken() -> bool:
            with log.open("ab") as output:
                result = subprocess.run(
                    command, check=False, stdout=output, stderr=output, env=self._environment
                )
            return result.returncode == 0

        wait_until(is_taken, within_s=_STARTED_WITHIN_S, what="deploying", explain=self.logs)

    def application(self) -> dict[str, Any]:
        """Return what Serve says of the application."""
        answer = httpx.get(
            f"{self._dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=10,
        )
        applications: dict[str, dict[str, Any]] = answer.raise_for_status().json()["applications"]
        return applications["zimage"]

    def runs(self, config: Manifest) -> bool:
        """Tell whether the application runs with these arguments, every deployment healthy."""
        (wanted,) = config["applications"]
        application = self.application()
        statuses = {each["status"] for each in application["deployments"].values()}
        return (
            application["status"] == "RUNNING"
            and application["deployed_app_config"]["args"] == json.loads(json.dumps(wanted["args"]))
            and statuses == {"HEALTHY"}
        )

    def num_running(self, deployment: str) -> int:
        """Count the running replicas of a deployment."""
        replicas = self.application()["deployments"][deployment]["replicas"]
        return sum(each["state"] == "RUNNING" for each in replicas)

    def logs(self) -> str:
        """Return what Ray wrote about its nodes, and Serve's controller about replicas."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')}"
            for path in sorted([*self._folder.glob("*.log"), *self._folder.glob(_CONTROLLER)])
        )

    def _start(self, pod: Pod) -> None:
        self._starts += 1
        # A pod's files are its own, and a socket's path has 107 characters at most.
        scratch = self._folder / str(self._starts)
        command = [
            *self._wrapper,
            str(_BIN / "ray"),
            "start",
            "--block",
            f"--node-ip-address={_NODE}",
            f"--temp-dir={scratch}",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--dashboard-agent-grpc-port={free_port()}",
            f"--metrics-export-port={free_port()}",
            "--object-store-memory=100000000",
            *pod.arguments,
        ]
        with (self._folder / f"{self._starts}-{pod.name}.log").open("wb") as log:
            self._processes[pod.name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, **pod.environment},
                start_new_session=True,
            )

    def _stays_up(self, pod: Pod) -> bool:
        """Start a pod that ended again, as Kubernetes does."""
        if self._processes[pod.name].poll() is None:
            return True
        self._start(pod)
        return False

    def _takes_configurations(self) -> bool:
        answer = httpx.get(
            f"{self._dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=5,
        )
        return answer.status_code == 200


def _local(parameters: Mapping[str, str]) -> dict[str, str]:
    return {**parameters, "dashboard-host": _HOST}


def _kill_tree(process: "subprocess.Popen[bytes]") -> None:
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
