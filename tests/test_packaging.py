"""The flat packages belong to this distribution alone, and its command works."""

from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["cluster", "deployments", "pipeline"])
def test_nobody_else_ships_a_package_of_this_name(package: str) -> None:
    assert set(packages_distributions().get(package, [])) <= {"zimage-serve"}


def test_the_command_is_the_projects_own() -> None:
    commands = entry_points(group="console_scripts", name="zimage-serve")

    assert [command.value for command in commands] == ["deployments.cli:main"]


def test_no_committed_file_imports_annotations_from_the_future() -> None:
    banned = "from __future__ import " + "annotations"
    files = [
        path
        for name in ("cluster", "deployments", "pipeline", "tests")
        for path in (ROOT / name).rglob("*.py")
    ]

    assert [path for path in files if banned in path.read_text("utf-8")] == []
