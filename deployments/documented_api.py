"""The OpenAPI document of the service."""

from typing import Any, Final

from fastapi import FastAPI

_FASTAPIS_OWN: Final = ("HTTPValidationError", "ValidationError")


class DocumentedApi(FastAPI):
    """Lists no 422, which FastAPI gives every route that has input: here that is a 400."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in _FASTAPIS_OWN:
            document["components"]["schemas"].pop(name, None)
        return document
