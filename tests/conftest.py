"""Fixtures that every package's tests may use."""

from pathlib import Path

import pytest
from hypothesis import settings
from random_model import save_random_model

# A machine under load is no failure: examples are bounded in number, not in time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model of the real classes."""
    return save_random_model(tmp_path_factory.mktemp("model") / "tiny")
