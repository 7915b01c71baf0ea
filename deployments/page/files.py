"""A file that is sent to a browser, with what the browser may do with it."""

import hashlib
from typing import Final

from fastapi import Request, Response


def content_policy(*, script: str = "'self'") -> str:
    """Return a policy that forbids other hosts, with the sources of scripts."""
    return (
        f"default-src 'none'; script-src {script}; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS: Final = {
    "content-security-policy": content_policy(),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


class PageFile:
    """One file, in memory."""

    def __init__(self, content: bytes, media_type: str, *, policy: str | None = None) -> None:
        self._content = content
        self._media_type = media_type
        self._headers = {**HEADERS, "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
        if policy is not None:
            self._headers["content-security-policy"] = policy

    async def send(self, request: Request) -> Response:
        """Send the file, unless the browser has it."""
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, media_type=self._media_type, headers=self._headers)
