"""Prompts that were encoded before."""

import secrets
from pathlib import Path

import pytest
import redis
import torch
from metric_reader import read_points
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redis_server import RedisServer

from cluster.metrics import OtelMeter, use_meters
from deployments.cache_config import CacheConfig
from deployments.config import TextEncoderConfig
from deployments.embedding_cache import CachedTextEncoder, embedding_key, embedding_scope
from deployments.loading import StageLoader
from deployments.shared_cache import SharedCache
from pipeline.device import choose_device
from pipeline.errors import InvalidRequestError
from pipeline.text_encoder import QwenTextEncoder, load_text_encoder
from pipeline.weights import resolve_weights


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> QwenTextEncoder:
    return load_text_encoder(resolve_weights(str(tiny_model)), choose_device("cpu"))


def open_cached(
    encoder: QwenTextEncoder, shared: SharedCache | None = None, *, max_bytes: int = 2**20
) -> CachedTextEncoder:
    return CachedTextEncoder(encoder, "scope", max_bytes=max_bytes, shared=shared)


def open_shared(server: RedisServer, namespace: str) -> SharedCache:
    return SharedCache(server.url, lifetime_s=60, namespace=namespace)


def test_a_prompt_is_encoded_once(encoder: QwenTextEncoder) -> None:
    cached = open_cached(encoder)

    first, second = cached.encode("a circle"), cached.encode("a circle")

    assert (cached.counts.num_misses, cached.counts.num_hits) == (1, 1)
    assert torch.equal(first.prompt_embeds, second.prompt_embeds)
    assert torch.equal(first.prompt_embeds, encoder.encode("a circle").prompt_embeds)


def test_look_ups_are_counted_in_the_metrics(encoder: QwenTextEncoder) -> None:
    reader = InMemoryMetricReader()
    use_meters([OtelMeter(MeterProvider([reader]))])
    cached = open_cached(encoder)
    for prompt in ("one", "one", "two", "one"):
        cached.encode(prompt)
    use_meters([])

    points = read_points(reader)["zimage.cache.lookups"]

    counted = {
        (point.attributes["cache"], point.attributes["result"]): point.value for point in points
    }
    assert counted == {("embedding", "hit"): 2, ("embedding", "miss"): 2}


def test_prompts_do_not_take_each_others_place(encoder: QwenTextEncoder) -> None:
    cached = open_cached(encoder)

    one, other = cached.encode("a circle"), cached.encode("a circle ")

    assert one.prompt_embeds.shape != other.prompt_embeds.shape
    assert cached.counts.num_misses == 2


def test_the_bound_in_bytes_holds(encoder: QwenTextEncoder) -> None:
    size = encoder.encode("prompt 0").prompt_embeds.nbytes
    cached = open_cached(encoder, max_bytes=2 * size)

    for index in (0, 1, 2, 0):
        cached.encode(f"prompt {index}")

    assert cached.counts.num_misses == 4
    assert cached.num_bytes == 2 * size


def test_a_prompt_that_is_too_long_is_refused_each_time(encoder: QwenTextEncoder) -> None:
    cached = open_cached(encoder)

    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="at most 512 tokens"):
            cached.encode("x" * 600)


def test_replicas_share_what_they_encode(
    encoder: QwenTextEncoder, cache_server: RedisServer
) -> None:
    namespace = f"test-{secrets.token_hex(4)}"
    shares = [open_shared(cache_server, namespace) for _ in range(2)]
    replicas = [open_cached(encoder, shared) for shared in shares]

    first, second = (replica.encode("一个红色圆形") for replica in replicas)
    for shared in shares:
        shared.close()

    assert replicas[1].counts.num_shared_hits == 1
    assert replicas[1].counts.num_misses == 0
    assert second.prompt_embeds.dtype == first.prompt_embeds.dtype
    assert torch.equal(first.prompt_embeds, second.prompt_embeds)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x05.", b"\xff" * 64, b"{}"])
def test_what_is_no_tensor_in_redis_is_encoded_anew(
    encoder: QwenTextEncoder, cache_server: RedisServer, content: bytes
) -> None:
    namespace = f"test-{secrets.token_hex(4)}"
    shared = open_shared(cache_server, namespace)
    shared.put(embedding_key("scope", "a circle"), content)
    cached = open_cached(encoder, shared)

    encoding = cached.encode("a circle")
    shared.close()

    assert cached.counts.num_misses == 1
    assert torch.equal(encoding.prompt_embeds, encoder.encode("a circle").prompt_embeds)


def test_redis_sees_no_prompt(encoder: QwenTextEncoder, cache_server: RedisServer) -> None:
    namespace = f"test-{secrets.token_hex(4)}"
    shared = open_shared(cache_server, namespace)
    open_cached(encoder, shared).encode("a private wish")
    shared.close()

    with redis.Redis.from_url(cache_server.url) as client:
        names = list(client.scan_iter(f"{namespace}:*"))
        contents = [client.get(name) or b"" for name in names]
    assert len(names) == 1
    assert b"private" not in b"".join([*names, *contents])


def test_everything_beside_the_prompt_that_decides_is_in_the_key(encoder: QwenTextEncoder) -> None:
    facts = {
        "revision": "r1",
        "accelerator": "cpu",
        "precision": "float32",
        "template": encoder.template,
        "max_tokens": 512,
    }
    others: list[dict[str, object]] = [
        {"revision": "r2"},
        {"accelerator": "H100"},
        {"precision": "bfloat16"},
        {"template": "<x>"},
        {"max_tokens": 256},
    ]

    scopes = {embedding_scope(**{**facts, **other}) for other in ({}, *others)}  # type: ignore[arg-type]

    assert len({embedding_key(scope, "x") for scope in scopes}) == 6


def test_a_replica_loads_with_the_cache_unless_it_is_off(tiny_model: Path) -> None:
    load = StageLoader(resolve_weights(str(tiny_model)))

    loaded = [
        type(load.cached_text_encoder(TextEncoderConfig(), CacheConfig(embedding_bytes=size)))
        for size in (2**20, 0)
    ]

    assert loaded == [CachedTextEncoder, QwenTextEncoder]
