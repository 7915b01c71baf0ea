"""What kustomize renders from `k8s/`, as plain data."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).parents[2]
MANIFESTS: Final = REPOSITORY / "k8s"
OVERLAYS: Final = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
RENDERED: Final = ["base", *(f"overlays/{name}" for name in OVERLAYS)]

Manifest = dict[str, Any]


@cache
def render(folder: str) -> tuple[Manifest, ...]:
    """Return the manifests of a folder below `k8s/`."""
    return _kustomize(MANIFESTS / folder)


def component_overlay(folder: Path, *components: str, **fields: Any) -> tuple[Manifest, ...]:
    """Return what an operator's own overlay of production renders, written to a folder."""
    manifests = Path(os.path.relpath(MANIFESTS, folder))
    overlay = {
        "resources": [str(manifests / "overlays" / "production")],
        "components": [str(manifests / "components" / each) for each in components],
        **fields,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay), "utf-8")
    return _kustomize(folder)


def _kustomize(folder: Path) -> tuple[Manifest, ...]:
    command = ["kubectl", "kustomize", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(yaml.safe_load_all(output))


def find_all(folder: str, kind: str) -> list[Manifest]:
    """Return all manifests of one kind."""
    return [manifest for manifest in render(folder) if manifest["kind"] == kind]


def rayservice(folder: str) -> Manifest:
    """Return the one RayService."""
    (manifest,) = find_all(folder, "RayService")
    return manifest


def serve_config(folder: str) -> Manifest:
    """Return `serveConfigV2` as data."""
    config: Manifest = yaml.safe_load(rayservice(folder)["spec"]["serveConfigV2"])
    return config


def application_args(folder: str) -> Manifest:
    """Return the arguments of `build_app`."""
    (application,) = serve_config(folder)["applications"]
    args: Manifest = application["args"]
    return args


def worker_groups(folder: str) -> dict[str, Manifest]:
    """Return the worker groups by name."""
    groups = rayservice(folder)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return {group["groupName"]: group for group in groups}


def pod_specs(folder: str) -> Iterator[tuple[str, Manifest]]:
    """Yield every pod's specification with a name."""
    cluster = rayservice(folder)["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for name, group in worker_groups(folder).items():
        yield name, group["template"]["spec"]
    for manifest in render(folder):
        if manifest["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def cpus(quantity: str) -> float:
    """Return how many CPUs a quantity says."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def containers(pod: Manifest) -> list[Manifest]:
    """Return a pod's containers, those that run first included."""
    return [*pod.get("initContainers", []), *pod["containers"]]
