"""Fixtures that every package's tests may use."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings
from random_model import save_random_model

# A machine under load is no failure: examples are bounded in number, not in time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_finish() -> None:
    """Compute on one thread, whichever tests run: a CPU's fingerprint counts its threads."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model of the real classes."""
    return save_random_model(tmp_path_factory.mktemp("model") / "tiny")
