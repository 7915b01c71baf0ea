"""An answer as JSON; for a thread, since pictures in it may be large."""

from typing import Final

from pydantic import TypeAdapter

from deployments.schemas import ImageItem, ImagesResponse

_ANSWER: Final = TypeAdapter(ImagesResponse)
_ITEM: Final = TypeAdapter(ImageItem)


def write_answer(answer: ImagesResponse) -> bytes:
    """Write an answer, picture by picture: all other threads wait while one is written."""
    bare = _ANSWER.dump_json(answer.model_copy(update={"data": []}), exclude_none=True)
    before, _, after = bare.partition(b'"data":[]')
    items = [_ITEM.dump_json(item, exclude_none=True) for item in answer.data]
    separated = [part for item in items for part in (b",", item)][1:]
    return b"".join([before, b'"data":[', *separated, b"]", after])
