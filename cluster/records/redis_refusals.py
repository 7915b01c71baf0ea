"""What an operator does about a Redis that answers, and refuses."""

from typing import Final

from redis.exceptions import AskError, ClusterError, NoPermissionError, ReadOnlyError, ResponseError

_DENIED_TO_SCRIPTS: Final = ("NOPERM", "The user executing the script")
"""How Redis 6 and later ones say within a script that its user may not do something."""


def explain(refusal: ResponseError, prefix: str) -> str:
    """Say what Redis must be or do, and what it does, for a message that names its place.

    Args:
        refusal: What it answered. `MovedError` is one kind of `AskError`.
        prefix: What all keys of the service begin with.
    """
    text = str(refusal)
    if isinstance(refusal, NoPermissionError) or any(word in text for word in _DENIED_TO_SCRIPTS):
        # Redis' own words may have the user's name.
        return (
            f"allow its user `~{prefix}* +@read +@write +@connection +eval +info +time`, "
            "got no permission"
        )
    match refusal:
        case ReadOnlyError():
            return "take writes: name the primary, got a read-only replica"
        case AskError() | ClusterError():
            return (
                f"have all keys that begin with {prefix}: name the node that has their slot, or "
                "a Redis without cluster mode, got a node that has it not"
            )
        case _:
            return f"take records, got the error {text!r}"
