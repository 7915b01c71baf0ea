"""The guide says what the manifests and the commands say."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.key_file import read_key_file
from tests.benchmarks.sizing import table
from tests.k8s.manifests import (
    MANIFESTS,
    RENDERED,
    containers,
    find_all,
    pod_specs,
    rayservice,
)

GUIDE = (MANIFESTS / "README.md").read_text("utf-8")


def test_the_sizing_table_is_what_plan_finds() -> None:
    assert "\n".join(table()) in GUIDE


@pytest.mark.parametrize("folder", RENDERED)
def test_every_secret_that_a_pod_cannot_do_without_is_made_in_the_guide(folder: str) -> None:
    variables = {
        each["valueFrom"]["secretKeyRef"]["name"]
        for _, pod in pod_specs(folder)
        for container in containers(pod)
        for each in container.get("env", [])
        if "valueFrom" in each
    }
    files = {
        volume["secret"]["secretName"]
        for _, pod in pod_specs(folder)
        for volume in pod["volumes"]
        if "secret" in volume
    }

    made = set(re.findall(r"create secret (?:generic|tls) (\S+)", GUIDE))

    assert variables | files <= made


def test_what_the_guide_puts_into_the_secret_is_a_file_of_keys(tmp_path: Path) -> None:
    (command,) = re.findall(r"^ +(zimage-serve key new .+?) \|", GUIDE, flags=re.MULTILINE)
    program, *words = shlex.split(command)
    printed = subprocess.run(
        [str(Path(sys.executable).parent / program), *words],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    file = tmp_path / "keys.yaml"
    file.write_text("\n".join(each for each in printed.splitlines() if not each.startswith("#")))

    (entry,) = read_key_file(file).keys

    assert entry.name == "team-a"
    assert "zs-" not in file.read_text()


def test_every_section_that_an_alert_leads_to_exists() -> None:
    rules = (MANIFESTS / "components" / "monitoring" / "rules.yaml").read_text("utf-8")
    sections = {
        re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-")
        for each in re.findall(r"^#+ (.+)$", GUIDE, flags=re.MULTILINE)
    }

    assert set(re.findall(r"README\.md#(\S+)", rules)) <= sections


def test_every_alert_is_in_the_runbook() -> None:
    rules = (MANIFESTS / "components" / "monitoring" / "rules.yaml").read_text("utf-8")

    assert [each for each in re.findall(r"alert: (\S+)", rules) if f"`{each}`" not in GUIDE] == []


def test_the_lever_of_the_runbook_moves_the_group_that_it_names() -> None:
    (text,) = re.findall(r"patch raycluster .* --type=json -p '(.+?)'", GUIDE, flags=re.DOTALL)
    test, change = json.loads(text)
    groups = rayservice("base")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    *_, index, name = test["path"].split("/")

    assert groups[int(index)][name] == test["value"]
    assert change["path"] == f"/spec/workerGroupSpecs/{index}/maxReplicas"
    assert change["value"] > groups[int(index)]["maxReplicas"]


def test_the_class_of_the_gateway_is_one_that_the_guide_has_made() -> None:
    (gateway,) = find_all("overlays/production", "Gateway")
    name = gateway["spec"]["gatewayClassName"]

    assert f"class is `{name}`: make a GatewayClass of that name" in " ".join(GUIDE.split())


def test_every_folder_that_the_guide_applies_exists() -> None:
    named = set(re.findall(r"apply -k k8s/(overlays/[a-z-]+)", GUIDE))

    assert named <= set(RENDERED)
