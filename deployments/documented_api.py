"""The OpenAPI document of the service."""

from typing import Any, Final

from fastapi import FastAPI

from deployments.keys import is_open

_FASTAPIS_OWN: Final = ("HTTPValidationError", "ValidationError")
_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key that the operator made; without keys here, anything or nothing.",
}


class DocumentedApi(FastAPI):
    """Lists no 422, which FastAPI gives every route that has input: here that is a 400.

    Says which operations take a key.
    """

    asks_for_keys = False

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        document = super().openapi()
        security: list[dict[str, list[str]]] = [{"key": []}]
        if not self.asks_for_keys:
            security.append({})
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if not is_open(path):
                    operation["security"] = security
        document["components"]["securitySchemes"] = {"key": _BEARER}
        for name in _FASTAPIS_OWN:
            document["components"]["schemas"].pop(name, None)
        return document
