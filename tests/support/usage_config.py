"""A service whose usage records are exported at once, into a folder."""

from pathlib import Path
from typing import Any


def usage_config(folder: Path, *, export_period_s: float = 0.5) -> dict[str, Any]:
    """Return the settings; journals and exported records lie below the folder."""
    return {
        "usage": {
            "enabled": True,
            "journal": str(folder / "journal"),
            "export": {"folder": str(folder / "usage")},
            "export_period_s": export_period_s,
        }
    }
