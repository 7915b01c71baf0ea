"""The operator's configuration of caches."""

from pydantic import Field, SecretStr

from deployments.config_section import Section


class CacheConfig(Section):
    """What is kept to be used again; every entry may be lost at any time."""

    embedding_bytes: int = Field(
        default=256 * 2**20,
        ge=0,
        description="Prompt embeddings that a text encoder replica keeps; 0 keeps none.",
    )
    results: bool = Field(
        default=False,
        description="Answer a call with a given seed by the picture that it had before.",
    )
    result_bytes: int = Field(
        default=16 * 2**20,
        gt=0,
        description="Names of such pictures that a router keeps where there is no Redis.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="A Redis that shares both among replicas, with `maxmemory` and an `allkeys` "
        "policy; never the one that keeps quotas or jobs.",
    )
    lifetime_s: int = Field(
        default=86_400, gt=0, description="Seconds that Redis keeps an entry at most."
    )
