"""Sends the page's files; nothing on it comes from another host."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from fastapi import FastAPI

from deployments.page.files import PageFile
from deployments.validation import RequestRules

_FOLDER: Final = Path(__file__).parent
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page/app.js": ("app.js", "text/javascript"),
    "/page/words.js": ("words.js", "text/javascript"),
    "/page/style.css": ("style.css", "text/css"),
}


@dataclass(frozen=True)
class PageLimits:
    """The sizes that the page may offer, in image pixels."""

    default_size: str
    min_side: int
    max_width: int
    max_height: int
    max_pixels: int

    @classmethod
    def from_rules(cls, rules: RequestRules) -> Self:
        """Take the sizes out of what calls are checked against."""
        return cls(
            default_size=str(rules.model.default_size),
            min_side=rules.limits.min_side,
            max_width=rules.model.max_width,
            max_height=rules.model.max_height,
            max_pixels=rules.limits.max_pixels,
        )


def add_page(app: FastAPI, limits: PageLimits) -> None:
    """Add the page's routes; they are no part of the API's document."""
    files = {
        path: PageFile((_FOLDER / name).read_bytes(), media_type)
        for path, (name, media_type) in _FILES.items()
    }
    told = json.dumps(asdict(limits)).encode()
    files["/page/limits.json"] = PageFile(told, "application/json")
    for path, file in files.items():
        app.get(path, include_in_schema=False)(file.send)
