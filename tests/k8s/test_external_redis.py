"""The operator's own Redis, as an overlay of the operator's would bring it in."""

import os
import subprocess
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import yaml

from tests.k8s.manifests import MANIFESTS

OVERLAY = """
resources: [{manifests}/base]
components: [{manifests}/components/external-redis]
patches:
  - target: {{kind: Service, name: redis-durable}}
    patch: '[{{"op": "replace", "path": "/spec/externalName", "value": "jobs.example.internal"}}]'
"""


def test_no_redis_is_left_and_its_name_leads_to_the_operators(tmp_path: Path) -> None:
    manifests = os.path.relpath(MANIFESTS, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(OVERLAY.format(manifests=manifests))
    command = ["kubectl", "kustomize", str(tmp_path)]

    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    rendered = {
        (each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(output)
    }
    service = rendered["Service", "redis-durable"]
    assert service["spec"] == {"type": "ExternalName", "externalName": "jobs.example.internal"}
    assert {kind for kind, _ in rendered} & {"StatefulSet", "Deployment"} == set()
    assert kubernetes_validate.validate(service, "1.37", strict=True)
