"""Prompts that were encoded before, in a text encoder replica and in a Redis for all of them."""

import hashlib
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save

from cluster.metrics import record
from cluster.telemetry import CACHE_LOOKUPS
from deployments.log import logger
from deployments.lru import LruCache
from deployments.shared_cache import SharedCache
from pipeline.request import PromptEncoding
from pipeline.stages import TextEncoder

_TENSOR = "prompt_embeds"
_CACHE = "embedding"


@dataclass
class EmbeddingCounts:
    """How often a prompt was found, since the replica began."""

    num_hits: int = 0
    num_shared_hits: int = 0
    """Found in Redis, and not in the replica."""
    num_misses: int = 0


class CachedTextEncoder:
    """Encodes each prompt once, as long as there is room. For one thread.

    Args:
        text_encoder: What encodes.
        scope: Everything beside the prompt that decides its encoding; see `embedding_scope`.
        max_bytes: Of the encodings that are held here.
        shared: Where others' encodings are.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        scope: str,
        *,
        max_bytes: int,
        shared: SharedCache | None = None,
    ) -> None:
        self._text_encoder = text_encoder
        self._scope = scope
        self._held: LruCache[str, PromptEncoding] = LruCache(max_bytes)
        self._shared = shared
        self.counts = EmbeddingCounts()

    @property
    def num_bytes(self) -> int:
        """Bytes of the encodings that are held here."""
        return self._held.num_bytes

    def encode(self, prompt: str) -> PromptEncoding:
        """Return a prompt's encoding; see `TextEncoder.encode`."""
        key = embedding_key(self._scope, prompt)
        if (held := self._held.get(key)) is not None:
            self.counts.num_hits += 1
            record(CACHE_LOOKUPS, cache=_CACHE, result="hit")
            return held
        encoding = self._find_shared(key) or self._encode(key, prompt)
        self._held.put(key, encoding, encoding.prompt_embeds.nbytes)
        return encoding

    def _find_shared(self, key: str) -> PromptEncoding | None:
        content = self._shared.get([key])[0] if self._shared is not None else None
        if content is None:
            return None
        try:
            encoding = PromptEncoding(load(content)[_TENSOR])
        except (SafetensorError, KeyError) as exc:
            logger.warning("the cache holds no tensor where one should be: %s", type(exc).__name__)
            return None
        self.counts.num_shared_hits += 1
        record(CACHE_LOOKUPS, cache=_CACHE, result="shared_hit")
        return encoding

    def _encode(self, key: str, prompt: str) -> PromptEncoding:
        self.counts.num_misses += 1
        record(CACHE_LOOKUPS, cache=_CACHE, result="miss")
        encoding = self._text_encoder.encode(prompt)
        if self._shared is not None:
            self._shared.put(key, save({_TENSOR: encoding.prompt_embeds.contiguous()}))
        return encoding


def embedding_scope(
    *, revision: str, accelerator: str, precision: str, template: str, max_tokens: int
) -> str:
    """Name everything beside the prompt that decides its encoding.

    Accelerator and precision are in it, since a Redis is shared among unlike machines, and a
    picture must not depend on which of them encoded its prompt first.
    """
    return "\0".join((revision, accelerator, precision, template, str(max_tokens)))


def embedding_key(scope: str, prompt: str) -> str:
    """Return a name that does not show the prompt."""
    digest = hashlib.sha256(f"{len(scope)}\0{scope}\0{prompt}".encode()).hexdigest()
    return f"embedding:{digest}"
