"""The field that a caller may have meant by a name that its object does not have. Pure."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel

_LIKENESS: Final = 0.6


def hint_at(place: Sequence[str | int], model: type[BaseModel] | None) -> str:
    """Return what to ask after an unknown field at a place of a body; empty if nothing is near."""
    *above, name = place
    for part in above:
        # A list's items have the model of the list's field.
        if model is not None and isinstance(part, str):
            model = _model_of(model, part)
    names = () if model is None else model.model_fields
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=_LIKENESS)
    return f", did you mean {'.'.join(map(str, (*above, near[0])))}?" if near else ""


def _model_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    return None if field is None else next(_models_in(field.annotation), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
