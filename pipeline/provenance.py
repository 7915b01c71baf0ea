"""How a picture was made, as it is written into its file and beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.request import ImageSize, RenderPath

_NAMES: Final = {
    "software": "software",
    "request_id": "request-id",
    "model": "model",
    "model_revision": "model-revision",
    "seed": "seed",
    "size": "size",
    "num_inference_steps": "num-inference-steps",
    "path": "path",
    "fingerprint": "fingerprint",
}
"""Names in lower case with hyphens: S3 folds case, and proxies drop headers with underscores."""


@dataclass(frozen=True)
class ImageProvenance:
    """How a picture was made. It never holds the prompt.

    Raises:
        ValueError: If a text is empty or holds a character that cannot be printed.
    """

    software: str
    """Name and version of this service."""
    request_id: str
    model: str
    model_revision: str
    seed: int
    size: ImageSize
    num_inference_steps: int
    path: RenderPath
    fingerprint: str
    """What the same bytes depend on beside the seed: device, build, path, precision, tile plan,
    and the same of the decode."""

    def __post_init__(self) -> None:
        for name, value in self.to_text().items():
            if not value or not value.isprintable():
                raise ValueError(f"{name} must be printable and not empty, got {value!r}")

    def to_text(self) -> dict[str, str]:
        """Write every fact as text, under the name it has in files and in object metadata."""
        return {name: str(getattr(self, field)) for field, name in _NAMES.items()}

    @classmethod
    def from_text(cls, text: Mapping[str, str]) -> "ImageProvenance":
        """Read what `to_text` wrote; other entries are ignored.

        Raises:
            ValueError: If a fact is missing or malformed.
        """
        missing = [name for name in _NAMES.values() if name not in text]
        if missing:
            raise ValueError(f"provenance must have {', '.join(missing)}, got {sorted(text)}")
        facts = {field: text[name] for field, name in _NAMES.items()}
        width, _, height = facts["size"].partition("x")
        return cls(
            software=facts["software"],
            request_id=facts["request_id"],
            model=facts["model"],
            model_revision=facts["model_revision"],
            seed=int(facts["seed"]),
            size=ImageSize(height=int(height), width=int(width)),
            num_inference_steps=int(facts["num_inference_steps"]),
            path=RenderPath(facts["path"]),
            fingerprint=facts["fingerprint"],
        )
