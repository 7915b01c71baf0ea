"""Sends the page's files; nothing on it comes from another host."""

import hashlib
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response

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


def add_page(app: FastAPI) -> None:
    """Add the page's routes; they are no part of the API's document."""
    for path, (name, media_type) in _FILES.items():
        file = _PageFile((_FOLDER / name).read_bytes(), media_type)
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
