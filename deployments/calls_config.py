"""How one deployment calls another."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from deployments.config_section import Section

ByValue = Literal["none", "short", "all"]

_LIMIT: Final = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"
_MAX_MESSAGE_BYTES: Final = 2**31 - 1

MESSAGE_LIMIT: Final = {_LIMIT: str(_MAX_MESSAGE_BYTES)}
"""What every Ray process needs for calls by value; Ray's own 4 MiB are less than a picture."""


class CallsConfig(Section):
    """By reference, through Ray's object store, or by value, straight from replica to replica."""

    by_value: ByValue = Field(
        default="none",
        description="Which calls go by value, which is quicker: `none`, `short` ones (encoding, "
        "decoding) or `all` but streams; where one machine has all replicas `zimage-serve run` "
        "takes `all`.",
    )


def check_message_limit(calls: CallsConfig, environment: Mapping[str, str]) -> None:
    """Refuse calls by value where Ray would break off large ones.

    Raises:
        ValueError: If the limit of messages is not raised in this process.
    """
    if calls.by_value == "none" or environment.get(_LIMIT) == MESSAGE_LIMIT[_LIMIT]:
        return
    raise ValueError(
        f"calls.by_value must be none unless {_LIMIT} is {_MAX_MESSAGE_BYTES} for every Ray "
        f"process, got {calls.by_value} with {environment.get(_LIMIT, 'nothing')}"
    )
