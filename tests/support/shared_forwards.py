"""What pictures save that share a forward of the embedded model, on one thread."""

import statistics
import time
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Final

import torch

from pipeline.acceleration.attention import build_attention
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.latents import draw_noise
from pipeline.networks import load_transformer
from pipeline.request import ImageSize
from pipeline.weights import EMBEDDED, resolve_weights

Size = tuple[int, int]

PROMPT_TOKENS: Final = 14
NUM_REPEATS: Final = 30


def measure_overhead_share(sizes: Sequence[Size]) -> float:
    """Return what is paid once in a forward, as a share of the time of the first size alone.

    Each member of a company of two or three after the first saves as much: the mean of all such
    companies, since large ones save less, their rows leaving the cache. Times are of this thread's
    processor, the shortest of each company, and they take turns: another process lengthens most.
    """
    torch.set_num_threads(1)
    companies = [
        company for count in (1, 2, 3) for company in combinations_with_replacement(sizes, count)
    ]
    took_s = _measure(companies)
    saved_s = [
        (sum(took_s[size,] for size in company) - took_s[company]) / (len(company) - 1)
        for company in companies
        if len(company) > 1
    ]
    return statistics.fmean(saved_s) / took_s[sizes[0],]


def _measure(companies: Sequence[tuple[Size, ...]]) -> dict[tuple[Size, ...], float]:
    transformer = _load_transformer()
    items = {company: _draw_items(transformer, company) for company in companies}
    samples: dict[tuple[Size, ...], list[float]] = {company: [] for company in companies}
    for _ in range(NUM_REPEATS + 1):
        for company in companies:
            begun_s = time.thread_time()
            transformer.predict_velocity(items[company])
            samples[company].append(time.thread_time() - begun_s)
    return {company: min(kept[1:]) for company, kept in samples.items()}


def _load_transformer() -> PackedTransformer:
    device = torch.device("cpu")
    model = load_transformer(resolve_weights(EMBEDDED), device=device, dtype=torch.float32)
    return PackedTransformer(model, build_attention("sdpa", device))


def _draw_items(transformer: PackedTransformer, company: Sequence[Size]) -> list[PackedItem]:
    generator = torch.Generator().manual_seed(0)
    dim = transformer._model.config.cap_feat_dim
    caption = transformer.encode_caption(torch.randn(PROMPT_TOKENS, dim, generator=generator))
    return [
        PackedItem(draw_noise(ImageSize(*size), seed=seed)[0], 0.5, caption)
        for seed, size in enumerate(company)
    ]
