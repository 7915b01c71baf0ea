"""The small model that ships with the project, so that one command draws without a GPU."""

from pathlib import Path
from typing import Final

EMBEDDED_MODEL: Final = Path(__file__).parent / "model"
"""A folder in diffusers' layout."""
