"""The file of keys: what an entry says, and how a key is made, hashed and recognised.

A key is `zs-<name>-<64 hex digits>`. Its 256 random bits cannot be guessed, so one HMAC-SHA256 with
a salt is as safe as scrypt, and a flood of wrong keys costs microseconds each instead of a core.
"""

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cluster.errors import KeyFormatError
from cluster.storage.keys import check_prefix
from deployments.config_file import ConfigurationError
from deployments.quotas import QuotaLimits
from pipeline.request import Priority

_ALGORITHM: Final = "hmac-sha256"
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
_NAME: Final = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
_KEY: Final = re.compile(rf"zs-({_NAME})-[0-9a-f]{{64}}")
_HASH: Final = rf"{_ALGORITHM}:[0-9a-f]{{32}}:[0-9a-f]{{64}}"
_NOBODY: Final = (f"{_ALGORITHM}:{'0' * 32}:{'0' * 64}",)
"""Compared with when the name is unknown, so that the answer takes as long."""


class KeyEntry(BaseModel):
    """One caller: its keys' hashes (two while a key is replaced), and what it may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=rf"^{_NAME}$", description="Owns what the keys make.")
    hashes: tuple[str, ...] = Field(min_length=1, max_length=8)
    models: frozenset[str] | None = Field(default=None, description="All if unset.")
    max_pixels: int | None = Field(default=None, gt=0, description="Of one picture.")
    priorities: frozenset[Priority] = Field(default=frozenset(Priority), min_length=1)
    units_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    units_per_day: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_concurrent_requests: int | None = Field(default=None, ge=1)
    prefix: str | None = Field(default=None, description="In the store; the name if unset.")

    @field_validator("hashes")
    @classmethod
    def _hashes_are_hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        for number, each in enumerate(hashes):
            if re.fullmatch(_HASH, each) is None:
                # The value may be a key that was pasted here: it is not repeated.
                raise ValueError(f"hash {number} must be {_ALGORITHM}:<salt>:<digest>")
        return hashes

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_key(cls, prefix: str | None) -> str | None:
        try:
            return None if prefix is None else check_prefix(prefix)
        except KeyFormatError as exc:
            raise ValueError(str(exc)) from exc

    @property
    def quota(self) -> QuotaLimits:
        """What may be used, and how fast."""
        return QuotaLimits(self.units_per_minute, self.units_per_day, self.max_concurrent_requests)


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _names_and_prefixes_differ(self) -> Self:
        for field, values in (
            ("name", [entry.name for entry in self.keys]),
            ("prefix", [entry.prefix or entry.name for entry in self.keys]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"each key's {field} must be its own, got {sorted(values)}")
        return self


def read_key_file(path: Path) -> KeyFile:
    """Read and check the file.

    Raises:
        ConfigurationError: If it cannot be read or breaks a rule; hashes are not repeated.
    """
    try:
        return KeyFile.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(
            f"keys.file must be readable, got {path}: {type(exc).__name__}"
        ) from exc
    except ValidationError as exc:
        lines = [
            f"keys.file {path}: {'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
            for error in exc.errors(include_input=False)
        ]
        raise ConfigurationError("\n".join(lines)) from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        # A date that is none, and lists a thousand deep, are no `YAMLError`.
        raise ConfigurationError(f"keys.file must be YAML, got {path}") from exc


def draw_key(name: str) -> str:
    """Draw a key for a caller.

    Raises:
        ConfigurationError: If the name is not one.
    """
    if re.fullmatch(_NAME, name) is None:
        raise ConfigurationError(f"--name must be 1 to 32 of a-z, 0-9 and -, got {name!r}")
    return f"zs-{name}-{secrets.token_hex(_SECRET_BYTES)}"


def hash_key(key: str) -> str:
    """Return what the file holds of a key."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"{_ALGORITHM}:{salt.hex()}:{_digest(salt, key)}"


def find_entry(entries: dict[str, KeyEntry], key: str) -> KeyEntry | None:
    """Return the entry that a key belongs to, in a time that tells nothing of the hashes."""
    match = _KEY.fullmatch(key)
    entry = entries.get(match[1]) if match else None
    fits = [_fits(key, each) for each in (entry.hashes if entry else _NOBODY)]
    return entry if any(fits) else None


def _fits(key: str, hashed: str) -> bool:
    _, salt, digest = hashed.split(":")
    return hmac.compare_digest(_digest(bytes.fromhex(salt), key), digest)


def _digest(salt: bytes, key: str) -> str:
    return hmac.new(salt, key.encode(), hashlib.sha256).hexdigest()
