"""The operator's configuration of jobs, idempotency keys and webhooks."""

import base64
import binascii
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from deployments.config_section import Section

_SECRET_PREFIX: Final = "whsec_"
_MIN_SECRET_BYTES: Final = 24
_MAX_SECRET_BYTES: Final = 64
"""Both bounds are Standard Webhooks'."""


class SqliteJobStoreConfig(Section):
    """Jobs in a file, for routers that all run on one machine."""

    kind: Literal["sqlite"] = "sqlite"
    path: Path | None = Field(
        default=None,
        description="The file; inside the folder of pictures if unset, so with S3 it must be set.",
    )


class RedisJobStoreConfig(Section):
    """Jobs in Redis, which must append to a file and evict nothing."""

    kind: Literal["redis"]
    url: SecretStr = Field(
        description="`redis://` or `rediss://` with the password, or `env:NAME` of a variable."
    )
    namespace: str = Field(
        default="zimage",
        pattern=r"^[a-z0-9-]{1,64}$",
        description="First part of every key, so that services may share a Redis.",
    )


JobStoreConfig = Annotated[SqliteJobStoreConfig | RedisJobStoreConfig, Field(discriminator="kind")]


class JobsConfig(Section):
    """Jobs, batches and idempotency keys."""

    store: JobStoreConfig = SqliteJobStoreConfig()
    max_running_jobs: int = Field(
        default=8, ge=1, description="Jobs that one router runs at once, batches aside."
    )
    max_running_batches: int = Field(
        default=2, ge=1, description="Jobs of `batch` priority that one router runs at once."
    )
    max_batch_concurrency: int = Field(
        default=4, ge=1, description="Requests of one batch that run at once."
    )
    max_batch_requests: int = Field(
        default=1000, ge=1, le=10_000, description="Requests in one batch."
    )
    max_batch_body_bytes: int = Field(
        default=4 * 2**20, gt=0, description="Largest body of `/v1/images/batches`."
    )
    max_queued: int = Field(
        default=10_000, ge=1, description="Jobs that wait, by queue; more are refused."
    )
    max_queued_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of `max_queued` that one key may have."
    )
    max_queued_bytes: int = Field(
        default=2**27,
        gt=0,
        description="Requests of all jobs that have not ended, as the store keeps them; what "
        "would exceed it is refused. Keep it well below Redis' memory.",
    )
    default_timeout_s: float = Field(
        default=3600.0, gt=0, description="Deadline of a job that names none, from acceptance."
    )
    default_batch_timeout_s: float = Field(
        default=86_400.0, gt=0, description="Deadline of a batch that names none."
    )
    retention_s: float = Field(
        default=86_400.0,
        gt=0,
        description="How long a finished job is kept, and one with a webhook after its last "
        "message; its pictures are the store's to expire.",
    )
    idempotency_retention_s: float = Field(
        default=86_400.0, gt=0, description="How long an idempotency key is remembered."
    )
    lease_s: float = Field(
        default=15.0, ge=1, description="A router that is silent for so long has lost its jobs."
    )
    max_attempts: int = Field(
        default=4, ge=1, description="How often a job is begun that never makes progress."
    )
    max_event_readers: int = Field(
        default=128,
        ge=1,
        description="Readers of jobs' events in one router; a key has at most half of them.",
    )
    poll_s: float = Field(
        default=0.25, gt=0, description="Seconds between looks for what other routers did."
    )

    @model_validator(mode="before")
    @classmethod
    def _store_is_sqlite_unless_said(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(values.get("store"), dict):
            return {**values, "store": {"kind": "sqlite", **values["store"]}}
        return values


def _check_host(host: str) -> str:
    if host != host.lower() or "/" in host or "@" in host or "*" in host:
        raise ValueError("a host must be `host` or `host:port` in lower case")
    return host


class WebhooksConfig(Section):
    """Signed messages about jobs, in the form of Standard Webhooks."""

    allowed_hosts: tuple[Annotated[str, AfterValidator(_check_host)], ...] = Field(
        default=(),
        description="`host` or `host:port` that callers may name; none turns webhooks off.",
    )
    secret: SecretStr | None = Field(
        default=None, description="Signs the messages: `whsec_` and 24 to 64 bytes in base64."
    )
    max_attempts: int = Field(default=10, ge=1, description="Tries of one message.")
    first_delay_s: float = Field(
        default=5.0, gt=0, description="Seconds to the second try; each wait is three times that."
    )
    max_delay_s: float = Field(default=3600.0, gt=0, description="Longest wait between tries.")
    timeout_s: float = Field(default=10.0, gt=0, description="Seconds that a target may take.")
    allow_http: bool = Field(default=False, description="Also `http://`; for tests.")
    allow_private_addresses: bool = Field(
        default=False, description="Also loopback and private networks; for tests."
    )

    @field_validator("secret")
    @classmethod
    def _secret_is_long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not _is_secret(secret.get_secret_value()):
            raise ValueError(
                f"must be {_SECRET_PREFIX} and {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} "
                "bytes in base64"
            )
        return secret

    @model_validator(mode="after")
    def _hosts_need_a_secret(self) -> Self:
        if self.allowed_hosts and self.secret is None:
            raise ValueError("secret must be set where allowed_hosts are")
        return self

    def signing_key(self) -> bytes:
        """Return the bytes of the secret; webhooks must be on."""
        assert self.secret is not None
        return base64.b64decode(self.secret.get_secret_value().removeprefix(_SECRET_PREFIX))


def _is_secret(text: str) -> bool:
    if not text.startswith(_SECRET_PREFIX):
        return False
    try:
        key = base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        return False
    return _MIN_SECRET_BYTES <= len(key) <= _MAX_SECRET_BYTES
