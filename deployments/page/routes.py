"""Sends the page's files; nothing on it comes from another host."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from fastapi import FastAPI, Request, Response

from deployments.validation import RequestRules

_FOLDER: Final = Path(__file__).parent
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page/app.js": ("app.js", "text/javascript"),
    "/page/words.js": ("words.js", "text/javascript"),
    "/page/style.css": ("style.css", "text/css"),
}
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
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
        path: _PageFile((_FOLDER / name).read_bytes(), media_type)
        for path, (name, media_type) in _FILES.items()
    }
    told = json.dumps(asdict(limits)).encode()
    files["/page/limits.json"] = _PageFile(told, "application/json")
    for path, file in files.items():
        app.get(path, include_in_schema=False)(file.send)


class _PageFile:
    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type
        self._headers = {**HEADERS, "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}

    async def send(self, request: Request) -> Response:
        """Send the file, unless the browser has it."""
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, media_type=self._media_type, headers=self._headers)
