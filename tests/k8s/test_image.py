"""The Dockerfile, without a container engine."""

import subprocess

from k8s.manifests import MANIFESTS


def test_hadolint_finds_nothing() -> None:
    command = ["hadolint", "--no-color", str(MANIFESTS / "image" / "Dockerfile")]

    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""
