"""Pictures that were drawn before, found by everything that makes them.

The denoiser's fingerprint is part of the key, and it is known only after drawing. So a call looks
under the fingerprints that the ledger's live replicas have now: a picture of a build, a card or a
precision that no longer serves is not found, and neither is anything while the ledger is away.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from deployments.log import logger
from deployments.lru import LruCache
from deployments.shared_cache import SharedCache
from pipeline.request import ImageSize, RenderPath


@dataclass(frozen=True)
class ResultFacts:
    """Everything that decides a file's bytes, but for the fingerprint and the request's own id."""

    model_revision: str
    """Digest or commit: covers weights, tokenizer, template and schedule."""
    prompt: str
    seed: int
    size: ImageSize
    num_inference_steps: int
    output_format: str
    output_compression: int | None
    other_stages: str
    """How text encoders and VAE decoders are configured: they report to no ledger."""
    owner_prefix: str
    """A picture belongs to one key: another draws its own."""

    def key(self, fingerprint: str) -> str:
        """Return a name that does not show the prompt."""
        text = json.dumps([asdict(self), fingerprint], sort_keys=True)
        return f"result:{hashlib.sha256(text.encode()).hexdigest()}"


@dataclass(frozen=True)
class CachedResult:
    """Where a picture is, and what its first answer said."""

    key: str
    fingerprint: str
    denoiser_fingerprint: str
    """The part of it that a live replica reports."""
    path: RenderPath
    num_prompt_tokens: int

    def to_bytes(self) -> bytes:
        """Return what a cache holds."""
        return json.dumps(asdict(self)).encode()


class ResultIndex(Protocol):
    """Holds bytes for as long as there is room."""

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is held, in the order of the keys."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Hold a value."""
        ...

    def close(self) -> None:
        """Let go of what it is reached by."""
        ...


class LocalResultIndex:
    """In this router; a restart forgets."""

    def __init__(self, max_bytes: int) -> None:
        self._held: LruCache[str, bytes] = LruCache(max_bytes)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `ResultIndex.get`."""
        return [self._held.get(key) for key in keys]

    def put(self, key: str, value: bytes) -> None:
        """See `ResultIndex.put`."""
        self._held.put(key, value, len(key) + len(value))

    def close(self) -> None:
        """See `ResultIndex.close`."""


@dataclass
class ResultCounts:
    """How often the pictures of a call were all found, since the router began."""

    num_hits: int = 0
    num_misses: int = 0


class ResultCache:
    """Finds and remembers pictures by what makes them."""

    def __init__(
        self,
        index: LocalResultIndex | SharedCache,
        read_fingerprints: Callable[[], frozenset[str]],
    ) -> None:
        self._index: ResultIndex = index
        # Redis may make its caller wait; what is in this process may not be used by two threads.
        self._is_remote = isinstance(index, SharedCache)
        self._read_fingerprints = read_fingerprints
        self.counts = ResultCounts()

    async def find(
        self, pictures: Sequence[ResultFacts], path: RenderPath | None
    ) -> list[CachedResult]:
        """Return all pictures of a call, of one fingerprint that serves now; or none.

        Args:
            pictures: What the call asks for.
            path: If the call pins it.
        """
        for fingerprint in sorted(self._read_fingerprints()):
            keys = [facts.key(fingerprint) for facts in pictures]
            found = [_read(content, fingerprint, path) for content in await self._get(keys)]
            results = [result for result in found if result is not None]
            if len(results) == len(pictures):
                return results
        return []

    async def add(self, facts: ResultFacts, result: CachedResult) -> None:
        """Remember a picture that is in the store."""
        key, content = facts.key(result.denoiser_fingerprint), result.to_bytes()
        if self._is_remote:
            await asyncio.to_thread(self._index.put, key, content)
        else:
            self._index.put(key, content)

    async def run(self) -> None:
        """Wait to be cancelled; then close the index."""
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(self._index.close)

    async def _get(self, keys: Sequence[str]) -> list[bytes | None]:
        if self._is_remote:
            return await asyncio.to_thread(self._index.get, keys)
        return self._index.get(keys)


def _read(content: bytes | None, fingerprint: str, path: RenderPath | None) -> CachedResult | None:
    if content is None:
        return None
    try:
        fields = json.loads(content)
        result = CachedResult(**{**fields, "path": RenderPath(fields["path"])})
    except (ValueError, TypeError, KeyError) as exc:
        logger.warning("the cache holds no result where one should be: %s", type(exc).__name__)
        return None
    is_asked = result.denoiser_fingerprint == fingerprint and path in (None, result.path)
    return result if is_asked else None
