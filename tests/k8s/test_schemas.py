"""Every rendered overlay against the schemas of the API servers that will take it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.k8s.crd_schema import find_violations
from tests.k8s.manifests import MANIFESTS, RENDERED, REPOSITORY, rayservice, render
from tests.k8s.schemas.trim_crd import trim_crd

SCHEMAS = Path(__file__).parent / "schemas"
SHARED_CRD = REPOSITORY.parent / "shared" / "kuberay" / "ray.io_rayservices.yaml"
KUBERNETES = ["1.32", "1.37"]
OTHER_GROUPS = {
    "ray.io/v1",
    "gateway.networking.k8s.io/v1",
    "gateway.envoyproxy.io/v1alpha1",
    "networking.gke.io/v1",
    "monitoring.coreos.com/v1",
}
OF_OPERATORS = {"external-redis", "spot-short-notice"}
"""Components that no overlay of ours has; tests render them in one of their own."""
WORD_BOOLEANS = re.compile(r"(?:[-:]\s+)(y|n|yes|no|on|off)\s*(?:#.*)?$", re.IGNORECASE)


def rayservice_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / "ray.io_rayservices.json").read_text())
    return schema


@pytest.mark.parametrize("folder", RENDERED)
def test_the_rayservice_satisfies_kuberays_schema(folder: str) -> None:
    assert find_violations(rayservice(folder), rayservice_schema()) == []


@pytest.mark.skipif(not SHARED_CRD.is_file(), reason="KubeRay's definition is not beside this tree")
def test_the_derived_schema_is_kuberays() -> None:
    assert rayservice_schema() == trim_crd(SHARED_CRD.read_text("utf-8"))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("folder", RENDERED)
def test_built_in_kinds_satisfy_kubernetes_schema(folder: str, version: str) -> None:
    built_in = [each for each in render(folder) if each["apiVersion"] not in OTHER_GROUPS]

    validated = [kubernetes_validate.validate(each, version, strict=True) for each in built_in]

    assert len(validated) >= 15


def test_every_kustomization_is_rendered_by_a_test() -> None:
    overlays = {path.parent for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml")}
    used = {
        (path.parent / name).resolve()
        for path in MANIFESTS.rglob("kustomization.yaml")
        for name in yaml.safe_load(path.read_text()).get("components", [])
    }

    assert {MANIFESTS / folder for folder in RENDERED} == {MANIFESTS / "base", *overlays}
    by_operators = {MANIFESTS / "components" / each for each in OF_OPERATORS}
    assert used | by_operators == {
        path.parent for path in (MANIFESTS / "components").glob("*/kustomization.yaml")
    }


def _lines() -> Iterator[tuple[str, str]]:
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            yield f"{path.relative_to(MANIFESTS)}:{number}", line


def test_no_word_is_a_boolean_to_kubectl_by_accident() -> None:
    assert [place for place, line in _lines() if WORD_BOOLEANS.search(line)] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_labels_and_annotations_are_text(folder: str) -> None:
    metadata = [each["metadata"] for each in render(folder)]

    values = [
        value
        for each in metadata
        for key in ("labels", "annotations")
        for value in each.get(key, {}).values()
    ]

    assert {type(value) for value in values} == {str}
