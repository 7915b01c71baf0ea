"""The model that ships with the service: small, of Z-Image's own classes, drawing simple scenes."""

from pathlib import Path
from typing import Final

EMBEDDED_MODEL: Final = Path(__file__).with_name("model")
"""The folder, in diffusers' layout; `README.md` in it is the model card."""
