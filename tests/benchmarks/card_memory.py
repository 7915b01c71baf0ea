"""GPU memory at the true size, random weights, each case in a process of its own under its cap.

    python tests/benchmarks/card_memory.py --out card_memory.json [--cases NAME ...]

`denoiser` cases hold the transformer alone, with every graph that it recorded in one shared pool;
`card` cases hold all three stages under what a 16 GB card offers to allocations, and draw from
prompt to pixels. Reserved memory is what the card must have; allocated is what tensors took of it.
The 16 GB card is this card under a cap: its memory is simulated, its speed is not.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

CAP_GIB = 14.75
PROMPT = "a red circle left of a blue square on a white background"
SIZES = (512, 1024, 2048)
TIMEOUT_S = 120.0

Row = dict[str, Any]


def measure_denoiser(precision: str, cap_gib: float | None = None) -> list[Row]:
    """Draw every size three times, so that it is run, recorded and replayed."""
    import torch
    from true_size import build_transformer

    transformer = build_transformer(torch.device("cuda"), torch.bfloat16)
    _begin(cap_gib, (transformer, precision))
    loop = _load_loop(transformer, precision)
    rows = []
    for side in SIZES:
        for seed in range(3):
            _denoise(loop, side, seed)
        rows.append({"side": side, **_peaks()})
    loop.close()
    return rows


def measure_card(precision: str, encoder_precision: str) -> list[Row]:
    """All three stages on one capped card, prompt to pixels."""
    import torch
    from true_size import build_language_model, build_transformer, build_vae

    from pipeline.acceleration.options import Acceleration, BlockKernels, Precision
    from pipeline.memory import DecodeMode
    from pipeline.networks import load_tokenizer
    from pipeline.text_encoder import QwenTextEncoder, build_prompt_layers
    from pipeline.vae.fitting import FittingVaeDecoder
    from pipeline.weights import EMBEDDED, resolve_weights

    device = torch.device("cuda")
    language_model = build_language_model(device, torch.bfloat16)
    transformer = build_transformer(device, torch.bfloat16)
    _begin(CAP_GIB, (language_model, encoder_precision), (transformer, precision))
    acceleration = Acceleration(BlockKernels.FUSED, Precision(encoder_precision))
    encoder = QwenTextEncoder(
        load_tokenizer(resolve_weights(EMBEDDED)),
        build_prompt_layers(language_model, acceleration, device),
    )
    loop = _load_loop(transformer, precision)
    decoder = FittingVaeDecoder(
        build_vae(device, torch.bfloat16), mode=DecodeMode.AUTO, budget_gib=2.0
    )
    rows = [{"side": 0, **_peaks()}]
    for side in (1024, 2048):
        times = []
        for seed in range(3):
            begun = time.perf_counter()
            latents = _denoise(loop, side, seed, encoder.encode(PROMPT).prompt_embeds)
            decoder.decode(latents)
            times.append(round(1000 * (time.perf_counter() - begun)))
        rows.append({"side": side, "ms": times[-1], **_peaks()})
    loop.close()
    return rows


CASES: dict[str, Callable[[], list[Row]]] = {
    "denoiser bfloat16": partial(measure_denoiser, "bfloat16"),
    "denoiser float8": partial(measure_denoiser, "float8"),
    "denoiser int8_weights": partial(measure_denoiser, "int8_weights"),
    "denoiser bfloat16, capped": partial(measure_denoiser, "bfloat16", CAP_GIB),
    "card float8, encoder int8_weights": partial(measure_card, "float8", "int8_weights"),
}


def _begin(gib: float | None, *models: tuple[Any, str]) -> None:
    """Put what is made smaller on the host, as loading does, and set the cap."""
    import torch

    for model, precision in models:
        if precision != "bfloat16":
            model.cpu()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)


def _load_loop(transformer: Any, precision: str) -> Any:
    import torch

    from pipeline.acceleration.attention import build_attention, choose_attention
    from pipeline.acceleration.options import AUTO, Acceleration, BlockKernels, Precision
    from pipeline.denoising.engine import StepLoop
    from pipeline.denoising.transformer import PackedTransformer

    device = torch.device("cuda")
    attention = choose_attention(AUTO, device)
    packed = PackedTransformer(
        transformer,
        build_attention(attention.packed, device),
        solo_attention=build_attention(attention.solo, device),
        acceleration=Acceleration(BlockKernels.FUSED, Precision(precision)),
        device=device,
    )
    return StepLoop(packed)


def _denoise(loop: Any, side: int, seed: int, embeds: Any = None) -> Any:
    import torch

    from pipeline.request import DenoiseRequest, ImageSize, PromptEncoding

    if embeds is None:
        embeds = torch.randn(64, 2560, generator=torch.Generator().manual_seed(0)).bfloat16()
    request = DenoiseRequest(
        f"{side}-{seed}",
        PromptEncoding(embeds),
        ImageSize(side, side),
        seed=seed,
        num_inference_steps=8,
    )
    return loop.denoise(request).latents


def _peaks() -> Row:
    import torch

    return {
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("card_memory.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.cases:
        results[name] = _measure_apart(name)
        for row in results[name] if isinstance(results[name], list) else [results[name]]:
            print(name, row, flush=True)
        options.out.write_text(json.dumps(results, indent=1))
    return int(any(not isinstance(rows, list) for rows in results.values()))


def _measure_apart(name: str) -> list[Row] | str:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(name, there))
    process.start()
    there.close()
    try:
        if here.poll(TIMEOUT_S):
            measured: list[Row] | str = here.recv()
            return measured
        return "no answer in time"
    except EOFError:
        process.join()
        return f"failed with exit status {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _send(name: str, there: Connection) -> None:
    there.send(CASES[name]())


if __name__ == "__main__":
    sys.exit(main())
