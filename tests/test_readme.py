"""The README says what the code does."""

import re
import shlex
from pathlib import Path

import pytest
from config_table import render_table

from deployments.cli import build_parser
from deployments.config import AppConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^(?:\S+ && )?(zimage-serve .+?)(?: +#.*)?$", README, flags=re.MULTILINE)


def test_the_configuration_table_is_the_schema() -> None:
    assert render_table(AppConfig) in README, "run python tests/support/config_table.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_can_be_parsed(command: str) -> None:
    assert callable(build_parser().parse_args(shlex.split(command)[1:]).run)


def test_ci_calls_the_readmes_test_command() -> None:
    test_command = re.search(r"^python -m pip install .+ && (pytest)$", README, re.MULTILINE)

    assert test_command is not None
    assert test_command[1] in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", README))
def test_a_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()
