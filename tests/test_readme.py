"""The README says what the code does."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from config_table import render_table
from pydantic import BaseModel

from deployments.cli import build_parser
from deployments.config import AppConfig
from deployments.jobs.schemas import BatchRequest, JobRequest
from deployments.key_file import KeyFile
from deployments.schemas import ImagesRequest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^(?:\S+ && )?(zimage-serve .+?)(?: +#.*)?$", README, flags=re.MULTILINE)
BODIES = re.findall(r"/v1/images/(\w+) [^{]*-d '(\{.+?\})'", README)
PYTHON = re.findall(r"^```python\n(.+?)^```", README, flags=re.MULTILINE | re.DOTALL)
YAML = re.findall(r"^```yaml\n(.+?)^```", README, flags=re.MULTILINE | re.DOTALL)
SCHEMAS: dict[str, type[BaseModel]] = {
    "generations": ImagesRequest,
    "jobs": JobRequest,
    "batches": BatchRequest,
}


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


def test_every_way_to_ask_for_pictures_has_an_example() -> None:
    assert {route for route, _ in BODIES} == set(SCHEMAS)


@pytest.mark.parametrize(("route", "body"), BODIES)
def test_a_body_of_the_readme_is_one(route: str, body: str) -> None:
    assert SCHEMAS[route].model_validate(json.loads(body))


@pytest.mark.parametrize("code", PYTHON)
def test_python_of_the_readme_is_python(code: str) -> None:
    compile(code, "README.md", "exec")


@pytest.mark.parametrize("text", YAML)
def test_yaml_of_the_readme_is_a_file_of_keys_or_a_configuration(text: str) -> None:
    values = yaml.safe_load(text)
    model = AppConfig if "webhooks" in values else KeyFile

    assert model.model_validate(values)
