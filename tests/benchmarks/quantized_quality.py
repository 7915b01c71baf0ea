"""What 8 bits cost in quality: the embedded trained model, its blocks' products quantised.

    python tests/benchmarks/quantized_quality.py --count 100 [--exact '*.feed_forward.w1' ...]

Held-out captions are drawn from the same seeds in float32, with products as `float8` and `int8`
quantise them (weights and inputs, a scale a row) and with weights as `int8_weights` does, and are
read back by image analysis. The products themselves are computed in float32 on the CPU: what is
measured is what the rounding does to pictures of a trained model, not a GPU's kernels, which take
no sides that do not divide by 16. PSNR is of pixels, against float32.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[2])]

from pipeline.acceleration.attention import build_attention
from pipeline.acceleration.options import Precision
from pipeline.acceleration.projections import FLOAT8, merge, quantize_rows
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.transformer import PackedTransformer
from pipeline.device import choose_device
from pipeline.embedded.evaluation.captions import held_out_captions
from pipeline.embedded.evaluation.judging import judge
from pipeline.embedded.evaluation.scoring import PictureScore, share_right
from pipeline.networks import load_transformer, load_vae
from pipeline.request import DenoiseRequest, ImageSize
from pipeline.text_encoder import load_text_encoder
from pipeline.vae_decoder import FullImageVaeDecoder
from pipeline.weights import EMBEDDED, resolve_weights

SIZE = ImageSize(256, 256)
CHAINS = ("noise_refiner", "layers")
"""The blocks that the service quantises; the context refiner stays as it is."""


class QuantizedLinear(nn.Module):
    """A linear over what 8 bits leave of weight and input."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.weight = nn.Parameter(_restore(linear.weight.data, dtype), requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply in float32."""
        return F.linear(_restore(rows, self._dtype), self.weight)


class Int8WeightLinear(nn.Module):
    """A linear over weights of 8-bit integers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._projection = merge([linear], Precision.INT8_WEIGHTS, keeps_source=True)

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply in float32."""
        return self._projection(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="captions")
    parser.add_argument("--seed", type=int, default=0, help="chooses the captions")
    parser.add_argument("--exact", nargs="*", default=[], help="patterns of layers that stay")
    options = parser.parse_args()
    weights, compute = resolve_weights(EMBEDDED), choose_device("cpu")
    encoder = load_text_encoder(weights, compute)
    decoder = FullImageVaeDecoder(load_vae(weights, device=compute.device, dtype=compute.dtype))
    model = load_transformer(weights, device=compute.device, dtype=compute.dtype)
    ways: dict[str, Callable[[nn.Linear], nn.Module] | None] = {
        "float32": None,
        "float8": partial(QuantizedLinear, dtype=FLOAT8),
        "int8": partial(QuantizedLinear, dtype=torch.int8),
        "int8_weights": Int8WeightLinear,
    }
    captions = held_out_captions(options.count, seed=options.seed)
    drawn: dict[str, list[NDArray[np.uint8]]] = {}
    for name, build in ways.items():
        changed = copy.deepcopy(model)
        if build is not None:
            _replace_products(changed, build, options.exact)
        loop = StepLoop(PackedTransformer(changed, build_attention("sdpa", compute.device)))
        begun = time.monotonic()
        drawn[name] = []
        for index, caption in enumerate(captions):
            request = DenoiseRequest(
                f"{index}",
                encoder.encode(caption.prompt),
                SIZE,
                seed=options.seed * 1_000_000 + index,
                num_inference_steps=8,
            )
            drawn[name].append(decoder.decode(loop.denoise(request).latents).numpy())
        loop.close()
        scores = [judge(one, pixels) for one, pixels in zip(captions, drawn[name], strict=True)]
        _report(name, scores, drawn[name], drawn["float32"], time.monotonic() - begun)


def _replace_products(
    model: Any, build: Callable[[nn.Linear], nn.Module], exact: list[str]
) -> None:
    for chain in CHAINS:
        for name, module in list(getattr(model, chain).named_modules()):
            # Modulation runs once a step, and stays as it is.
            if not isinstance(module, nn.Linear) or "adaLN" in name:
                continue
            if any(fnmatch(f"{chain}.{name}", pattern) for pattern in exact):
                continue
            parent, _, last = name.rpartition(".")
            setattr(getattr(model, chain).get_submodule(parent), last, build(module))


def _restore(rows: Tensor, dtype: torch.dtype) -> Tensor:
    flat = rows.flatten(0, -2)
    quantized = quantize_rows(flat, dtype)
    return (quantized.values.float() * quantized.scales).view_as(rows)


def _report(
    name: str,
    scores: Sequence[PictureScore],
    drawn: Sequence[NDArray[np.uint8]],
    exact: Sequence[NDArray[np.uint8]],
    seconds: float,
) -> None:
    right = share_right(scores)
    told = ", ".join(f"{part} {100 * share:.1f} %" for part, share in right.items())
    psnr = [_psnr_db(one, other) for one, other in zip(drawn, exact, strict=True)]
    low, median = np.quantile(psnr, [0.1, 0.5])
    print(
        f"{name:13} {told}; PSNR {median:.1f} dB at the median, {low:.1f} at 10 % "
        f"({len(scores)} pictures, {seconds:.0f} s)",
        flush=True,
    )


def _psnr_db(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = float(np.square(one.astype(np.float64) - other).mean())
    return float(10 * np.log10(255**2 / error)) if error else 99.0


if __name__ == "__main__":
    main()
