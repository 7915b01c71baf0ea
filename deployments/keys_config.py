"""The operator's configuration of keys and quotas."""

from pathlib import Path

from pydantic import Field, SecretStr

from deployments.config_section import Section


class KeysConfig(Section):
    """Who may call, and how much."""

    file: Path | None = Field(
        default=None,
        description="YAML or JSON with hashes of keys, or a mounted secret; no keys if unset. "
        "Read again when it changes.",
    )
    reload_period_s: float = Field(
        default=1.0, ge=0, description="Seconds until a change of the file is seen."
    )
    insecure_no_keys: bool = Field(
        default=False,
        description="Let `zimage-serve run` listen beyond loopback without keys.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="`redis://` or `rediss://` where quotas are counted; in the router if unset, "
        "which needs `router.num_replicas` 1.",
    )
