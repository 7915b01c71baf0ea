"""What a job keeps of its requests: orders with seed and id, written and read back whole."""

from dataclasses import dataclass
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cluster.errors import JobFormatError
from deployments.generation import ImagesOrder


@dataclass(frozen=True)
class JobItem:
    """One request of a job."""

    order: ImagesOrder
    is_base64: bool
    """Whether the caller wants files in the answer, and not URLs."""


_ITEMS: Final = TypeAdapter(
    list[JobItem], config=ConfigDict(extra="forbid", hide_input_in_errors=True)
)
"""An error that is logged must not hold a prompt."""


def write_items(items: list[JobItem]) -> str:
    """Return what the job store keeps; it holds prompts."""
    return _ITEMS.dump_json(items).decode()


def read_items(payload: str) -> list[JobItem]:
    """Read what `write_items` wrote.

    Raises:
        JobFormatError: If it was another version's, which knows more or fewer fields.
    """
    try:
        return _ITEMS.validate_json(payload)
    except ValidationError as exc:
        raise JobFormatError(f"requests must have this version's fields: {exc}") from exc
