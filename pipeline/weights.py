"""Where a model's weights are, and which revision they have.

The layout is diffusers': a folder, or a repository of the Hugging Face hub, with `model_index.json`
and one subfolder a component. Safetensors only: a pickle is never opened.
"""

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pipeline.embedded import EMBEDDED_MODEL
from pipeline.errors import WeightsError

EMBEDDED: Final = "embedded"
"""The source that names the model which ships with the project."""

PIPELINE_CLASS: Final = "ZImagePipeline"
_COMPONENTS: Final = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
_WHOLE_FILE_BYTES: Final = 64 * 2**20
_EDGE_BYTES: Final = 2**20
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """One revision of one model; read a component at a time."""

    source: str
    """`embedded`, a folder, or a hub id."""
    revision: str
    """The hub's commit, or `sha256:` and the digest of a folder's content."""
    folder: Path | None
    """Where the files are; None if they come from the hub."""

    def component(self, name: str) -> Path:
        """Return the folder of one component, fetched from the hub if it is not there.

        Raises:
            WeightsError: If the component does not exist or cannot be fetched.
        """
        root = self.folder or _fetch(self.source, self.revision, name)
        path = root / name
        if not path.is_dir():
            raise WeightsError(f"a model needs a folder {name!r}, and {root} has none")
        return path

    def component_config(self, name: str, file: str) -> dict[str, Any]:
        """Read a component's JSON configuration."""
        return _read_json(self.component(name) / file)

    @cached_property
    def shift(self) -> float:
        """`shift` of the schedule.

        Raises:
            WeightsError: If the scheduler is not the one that this service steps.
        """
        config = self.component_config("scheduler", "scheduler_config.json")
        if config.get("_class_name") != "FlowMatchEulerDiscreteScheduler":
            raise WeightsError(
                "the scheduler must be FlowMatchEulerDiscreteScheduler, "
                f"got {config.get('_class_name')!r}"
            )
        if config.get("use_dynamic_shifting"):
            raise WeightsError("the scheduler's shift must be static, got use_dynamic_shifting")
        return float(config["shift"])


def resolve_weights(source: str, revision: str | None = None) -> Weights:
    """Pin a model to one revision, without reading a tensor.

    Call it once for all replicas: a hub id is resolved to the commit that its branch has now.

    Raises:
        WeightsError: If the source is neither a folder nor a hub id, or is not a Z-Image model.
    """
    folder = EMBEDDED_MODEL if source == EMBEDDED else Path(source)
    if source == EMBEDDED or folder.is_dir():
        weights = Weights(source=source, revision=_folder_revision(folder), folder=folder.resolve())
        index = _read_json(folder / "model_index.json")
    else:
        weights = Weights(source=source, revision=_hub_commit(source, revision), folder=None)
        index = _read_json(_fetch(source, weights.revision, "scheduler") / "model_index.json")
    if index.get("_class_name") != PIPELINE_CLASS:
        raise WeightsError(f"{source} must be a {PIPELINE_CLASS}, got {index.get('_class_name')!r}")
    return weights


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise WeightsError(
            f"a model in diffusers' layout needs {path.name}, not in {path.parent}"
        ) from exc
    except json.JSONDecodeError as exc:
        raise WeightsError(f"{path} must be JSON, {exc}") from exc
    return content


def _folder_revision(folder: Path) -> str:
    """Digest names, sizes and content; of a file above 64 MiB the first and the last MiB."""
    digest = hashlib.sha256()
    found = (file for name in _COMPONENTS for file in (folder / name).glob("*"))
    for path in sorted(file for file in found if file.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE_BYTES:
                digest.update(file.read())
            else:
                digest.update(file.read(_EDGE_BYTES))
                file.seek(-_EDGE_BYTES, 2)
                digest.update(file.read(_EDGE_BYTES))
    return f"sha256:{digest.hexdigest()[:16]}"


def _hub_commit(source: str, revision: str | None) -> str:
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        commit = HfApi().model_info(source, revision=revision).sha
    except Exception as exc:
        # Its client raises the errors of whatever transport it has.
        was_answered = isinstance(exc, HfHubHTTPError | HFValidationError)
        cached = None if was_answered else _cached_commit(source, revision)
        if cached is None:
            raise WeightsError(
                f"model must be a folder or an id of the hub, got {source!r}: "
                f"no such folder, and the hub could not be asked ({type(exc).__name__})"
            ) from exc
        _logger.warning(
            "the hub could not be asked (%s): %s is taken at %s, as it was fetched last",
            type(exc).__name__,
            source,
            cached,
        )
        return cached
    if commit is None:
        raise WeightsError(f"the hub names no commit of {source}")
    return commit


def _cached_commit(source: str, revision: str | None) -> str | None:
    """Return the commit that a branch had when it was last fetched, and None if it never was."""
    try:
        folder = snapshot_download(
            source, revision=revision, allow_patterns=["model_index.json"], local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder).name


def _fetch(source: str, revision: str, component: str) -> Path:
    patterns = ["model_index.json", f"{component}/*.json", f"{component}/*.safetensors"]
    if component == "tokenizer":
        patterns += ["tokenizer/*.txt", "tokenizer/*.jinja"]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as exc:
        raise WeightsError(
            f"could not fetch {component} of {source} at {revision} ({type(exc).__name__})"
        ) from exc
