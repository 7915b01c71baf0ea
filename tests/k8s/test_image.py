"""The Dockerfile, without a container engine."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

import pytest

from tests.k8s.manifests import MANIFESTS, REPOSITORY

DOCKERFILE: Final = MANIFESTS / "image" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line.strip()]


def arguments_of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def default_of(argument: str) -> str:
    values = [each.partition("=")[2] for each in arguments_of("ARG") if "=" in each]
    names = [each.partition("=")[0] for each in arguments_of("ARG") if "=" in each]
    return values[names.index(argument)].strip('"')


def test_hadolint_finds_nothing() -> None:
    command = ["hadolint", "--no-color", str(DOCKERFILE)]

    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


def test_the_image_runs_as_a_user() -> None:
    assert arguments_of("USER")[-1] == "1000:100"


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copied = {
        word
        for each in arguments_of("COPY")
        for word in each.split()[:-1]
        if not each.startswith("--from")
    }

    assert "*" in lines
    assert {each.removeprefix("!") for each in lines if each.startswith("!")} == copied


@pytest.mark.slow
def test_the_install_steps_run_in_a_clean_root(tmp_path: Path) -> None:
    build, install = arguments_of("RUN")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("cluster", "deployments", "pipeline"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    root = tmp_path / "root"
    venv.create(root, with_pip=True)
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "RAY_VERSION": default_of("RAY_VERSION"),
        "EXTRAS": default_of("EXTRAS"),
    }

    subprocess.run(["sh", "-ec", build], cwd=tmp_path, env=environment, check=True)
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "dist").rename(work / "dist")
    subprocess.run(["sh", "-ec", install], cwd=work, env=environment, check=True)

    packages = root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    installed = {path.name for path in packages.iterdir()}
    assert {"cluster", "deployments", "pipeline"} <= installed
    assert {"k8s", "tests"} & installed == set()

    def run(*command: str) -> str:
        return subprocess.run(
            command, cwd=work, env=environment, check=True, capture_output=True, text=True
        ).stdout

    # What the pods' containers call, and what the guide tells the operator to.
    fetch = str(MANIFESTS / "base" / "weights" / "fetch.py")
    assert "--source" in run("python", fetch, "--help")
    assert default_of("RAY_VERSION") in run("ray", "--version")
    assert "deploy" in run("serve", "--help")
    assert "hashes" in run("zimage-serve", "key", "new", "--name", "team-a")
    run("zimage-serve", "generate", "a red circle", "--output", "out.png")
    assert (work / "out.png").read_bytes().startswith(b"\x89PNG")
