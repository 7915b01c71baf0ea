"""Why an application did not start, out of what Serve says of its deployments. Pure."""

import os
import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr
from ray.serve.schema import ApplicationStatusOverview

from deployments.config import AppConfig

_FRAME: Final = '  File "'
_MODULE: Final = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
_LOGIN: Final = re.compile(r"(?<=://)[^/\s@]*@")
_ENVIRONMENT: Final = "env:"
_MAX_CHARACTERS: Final = 1000


def explain_failure(application: ApplicationStatusOverview, config: AppConfig) -> str:
    """Return Serve's own message, and a line for each deployment that it names with its error.

    Secrets of the configuration are left out, in case that an error repeats one.
    """
    lines = [application.message]
    for name, deployment in application.deployments.items():
        if repr(name) in application.message and deployment.message:
            lines.append(f"  {name}: {_find_error(deployment.message)}")
    text = "\n".join(lines)
    for secret in sorted(_secrets_in(config), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _LOGIN.sub("***@", text)


def _find_error(message: str) -> str:
    """Return what stands below the last traceback, or else below Serve's own sentence."""
    _, _, below = message.rpartition(f"\n{_FRAME}")
    lines = [line for line in below.splitlines()[1:] if line and not line.startswith(" ")]
    if not lines:
        lines = message.partition("Error:\n")[2].splitlines() or message.splitlines()
    error = " ".join(line.strip() for line in lines)
    return _MODULE.sub("", error)[:_MAX_CHARACTERS]


def _secrets_in(value: Any) -> Iterator[str]:
    match value:
        case SecretStr():
            yield from _parts_of(value.get_secret_value())
        case BaseModel():
            for name in type(value).model_fields:
                yield from _secrets_in(getattr(value, name))
        case tuple():
            for each in value:
                yield from _secrets_in(each)


def _parts_of(secret: str) -> Iterator[str]:
    """Give a secret, and of a URL the password alone."""
    if secret.startswith(_ENVIRONMENT):
        secret = os.environ.get(secret.removeprefix(_ENVIRONMENT), "")
    try:
        password = urlsplit(secret).password
    except ValueError:
        password = None
    yield from {secret, password or "", unquote(password or "")} - {""}
