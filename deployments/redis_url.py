"""A Redis URL of the configuration: written there, or in an environment variable that it names."""

import os
from typing import Final

from pydantic import SecretStr

from cluster.errors import RecordStoreConfigurationError
from cluster.redis_url import place_of

_REFERENCE: Final = "env:"


def read_redis_url(url: SecretStr) -> str:
    """Return the URL; `env:NAME` is what the variable holds, so that a secret is only referred to.

    Raises:
        RecordStoreConfigurationError: If the variable is not set, or what is there is no URL.
    """
    text = _resolve(url.get_secret_value())
    place_of(text)
    return text


def _resolve(text: str) -> str:
    if not text.startswith(_REFERENCE):
        return text
    name = text.removeprefix(_REFERENCE)
    if name not in os.environ:
        raise RecordStoreConfigurationError(f"environment variable {name} must be set, got none")
    return os.environ[name]
