"""The answer that a stored picture gets: conditions and ranges as in RFC 9110."""

import hashlib
import re
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response

from cluster.storage import StoredImage
from deployments.byte_ranges import parse_range
from deployments.errors import EmptyRangeError, PreconditionError
from deployments.json_words import say
from deployments.middleware import to_response

_TAG: Final = re.compile(r'(W/)?("[^"]*")')


def to_file_response(stored: StoredImage, given: Headers, *, max_age_s: int) -> Response:
    """Answer with the picture, a part of it, or the word that the caller has it.

    Args:
        stored: The picture, which never changes under its key.
        given: Headers of the call.
        max_age_s: Seconds that its URL still works.
    """
    tag = f'"{hashlib.sha256(stored.content).hexdigest()[:32]}"'
    headers = {
        "etag": tag,
        "cache-control": f"private, max-age={max_age_s}, immutable",
        "x-content-type-options": "nosniff",
        "accept-ranges": "bytes",
    }
    conditions = given.getlist("if-match")
    if conditions and not _has(tag, conditions, is_strong=True):
        return to_response(_unmatched(tag, conditions))
    if _has(tag, given.getlist("if-none-match"), is_strong=False):
        return Response(status_code=304, headers=headers)
    length = len(stored.content)
    try:
        part = parse_range(_read_range(given, tag), length)
    except EmptyRangeError as exc:
        refusal = to_response(exc)
        refusal.headers["content-range"] = f"bytes */{length}"
        return refusal
    if part is None:
        return Response(stored.content, headers=headers, media_type=stored.content_type)
    headers["content-range"] = f"bytes {part.first}-{part.last}/{length}"
    content = stored.content[part.first : part.last + 1]
    return Response(content, 206, headers, stored.content_type)


def _has(tag: str, conditions: list[str], *, is_strong: bool) -> bool:
    """Say whether a list of tags names the file's; a weak one does not if compared strongly."""
    return any(
        condition.strip() == "*"
        or any(named == tag and not (weak and is_strong) for weak, named in _TAG.findall(condition))
        for condition in conditions
    )


def _unmatched(tag: str, conditions: list[str]) -> PreconditionError:
    got = say(", ".join(conditions))
    return PreconditionError(f"if-match must be * or name {tag}, got {got}", "if-match")


def _read_range(given: Headers, tag: str) -> str:
    """Return the `Range` that counts; empty if `If-Range` is of another file, or there is none."""
    if given.get("if-range", tag) != tag:
        return ""
    return given.get("range", "")
