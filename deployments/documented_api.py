"""The OpenAPI document of the service."""

from typing import Any, Final

from fastapi import FastAPI

from deployments.keys import is_open

_FASTAPIS_OWN: Final = ("HTTPValidationError", "ValidationError")
_SCHEME: Final = "bearer"


class DocumentedApi(FastAPI):
    """Lists no 422, which FastAPI gives every route that has input: here that is a 400.

    Args:
        asks_for_keys: Whether all but a few routes want a key.
    """

    def __init__(self, *, asks_for_keys: bool, **options: Any) -> None:
        super().__init__(**options)
        self._asks_for_keys = asks_for_keys

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        document = super().openapi()
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if self._asks_for_keys and not is_open(path):
                    operation["security"] = [{_SCHEME: []}]
        for name in _FASTAPIS_OWN:
            document["components"]["schemas"].pop(name, None)
        if self._asks_for_keys:
            bearer = {"type": "http", "scheme": "bearer"}
            document["components"]["securitySchemes"] = {_SCHEME: bearer}
        return document
