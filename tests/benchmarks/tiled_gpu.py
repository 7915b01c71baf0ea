"""Peak and time of the tiled path on one GPU, capped like a 16 GB card. Random weights.

    python tests/benchmarks/tiled_gpu.py denoiser --sizes 1024 2048 3072 4096
    python tests/benchmarks/tiled_gpu.py denoiser --quantize MODULE:FUNCTION
    python tests/benchmarks/tiled_gpu.py vae --sizes 1024 2048 3072 4096
    python tests/benchmarks/tiled_gpu.py vae --sizes 1024 2048 --dtype float32 --cap-gib 0
    python tests/benchmarks/tiled_gpu.py all --tiny --device cpu

`all` gives each stage a process of its own. A row that ran out of the capped memory says so. The
last line of a series fits `PeakMemoryModel` to it.
"""

import argparse
import importlib
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from tile_executor import TransformerTileExecutor
from torch import Tensor
from transformer_work import passes_flop

from pipeline.denoising.tiled import TiledDenoiser, TileExecutor
from pipeline.memory import fit_peak_memory
from pipeline.request import DenoiseRequest, ImageSize, PromptEncoding
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import TilingOptions, plan_passes
from pipeline.vae.mid_block import attend_fused, attend_in_chunks
from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions
from tests.benchmarks.tiled_models import build_transformer, build_vae

GIB = 2**30
SIZES = [1024, 2048, 3072, 4096]
TINY_SIZES = [256, 384]


@dataclass(frozen=True)
class Measured:
    median_ms: float
    peak_gib: float
    host_gib: float
    """Pinned for tiles that wait; NaN without a GPU, as `peak_gib`."""
    outcome: Tensor


def main() -> None:
    arguments = parse_arguments()
    if arguments.stage == "all":
        for stage in ("denoiser", "vae"):
            passed_on = [stage, *sys.argv[2:]]
            subprocess.run([sys.executable, __file__, *passed_on], check=True)
        return
    if arguments.cap_gib and arguments.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(arguments.cap_gib * GIB / total)
    {"denoiser": measure_denoiser, "vae": measure_vae}[arguments.stage](arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=["denoiser", "vae", "all"])
    parser.add_argument("--sizes", type=int, nargs="+", default=None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cap-gib", type=float, default=14.75, help="0 is no cap")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--attention", help="diffusers' backend, as _native_cudnn")
    parser.add_argument("--quantize", help="module:function to apply to the transformer")
    parser.add_argument("--tiny", action="store_true", help="tiny models, 256 and 384 px")
    arguments = parser.parse_args()
    arguments.sizes = arguments.sizes or (TINY_SIZES if arguments.tiny else SIZES)
    return arguments


def measure_denoiser(arguments: argparse.Namespace) -> None:
    dtype = getattr(torch, arguments.dtype)
    transformer = build_transformer(arguments.device, dtype, is_tiny=arguments.tiny)
    if arguments.quantize:
        module, name = arguments.quantize.split(":")
        getattr(importlib.import_module(module), name)(transformer)
    if arguments.attention:
        transformer.set_attention_backend(arguments.attention)
    executor = TransformerTileExecutor(transformer)
    encoding = PromptEncoding(torch.randn(64, transformer.config.cap_feat_dim))
    series: dict[str, dict[int, float]] = {}
    for pixels in arguments.sizes:
        size = ImageSize(pixels, pixels)
        request = DenoiseRequest("benchmark", encoding, size, seed=0, num_inference_steps=8)
        ms_per_flop = None
        for name, options in denoiser_options(size, is_tiny=arguments.tiny):
            flop = passes_flop(plan_passes(size, build_schedule(8), options))
            measured = measure(denoise_once(executor, options, request), arguments)
            predicted = "" if ms_per_flop is None else f"{flop * ms_per_flop:9.0f} ms predicted"
            report(f"denoiser {pixels} {name}", measured, f"{flop / 1e12:8.0f} TFLOP {predicted}")
            if measured is not None:
                series.setdefault(name, {})[size.num_image_tokens] = measured.peak_gib
                ms_per_flop = measured.median_ms / flop if name == "full" else ms_per_flop
    print_fits(series)


def denoiser_options(size: ImageSize, *, is_tiny: bool) -> Iterator[tuple[str, TilingOptions]]:
    whole = math.ceil(max(size.latent_height, size.latent_width) / 8) * 8
    tile_size, base = (24, 128 * 128) if is_tiny else (96, 768 * 768)
    yield "full", TilingOptions(tile_size=whole)
    yield "tiled, no base", TilingOptions(tile_size=tile_size, start_sigma=1)
    yield "tiled, base", TilingOptions(tile_size=tile_size, base_max_pixels=base)


def denoise_once(
    executor: TileExecutor, options: TilingOptions, request: DenoiseRequest
) -> Callable[[], Tensor]:
    return lambda: TiledDenoiser(executor, options).denoise(request).latents


def measure_vae(arguments: argparse.Namespace) -> None:
    vae = build_vae(arguments.device, getattr(torch, arguments.dtype), is_tiny=arguments.tiny)
    decoders: dict[str, Callable[[Tensor], Tensor]] = {
        "full": lambda latents: decode_untiled(vae, latents),
        "tiled, chunks": TiledVaeDecoder(vae, attend=attend_in_chunks).decode_image,
        "tiled, fused": TiledVaeDecoder(vae, attend=attend_fused).decode_image,
        "tiled, on device": TiledVaeDecoder(
            vae, VaeTilingOptions(device_bytes_per_latent=ALL_ON_DEVICE)
        ).decode_image,
    }
    series: dict[str, dict[int, float]] = {}
    for pixels in arguments.sizes:
        latents = torch.randn(1, 16, pixels // 8, pixels // 8)
        full = None
        for name, decode in decoders.items():
            measured = measure(partial(decode, latents), arguments)
            if measured is None:
                report(f"vae {pixels} {name}", None, "")
                continue
            full = measured.outcome if name == "full" else full
            seams = "" if full is None else compare(measured.outcome, full)
            host = f"host {measured.host_gib:6.2f} GiB"
            report(f"vae {pixels} {name}", measured, f"{host} {seams}")
            series.setdefault(name, {})[(pixels // 16) ** 2] = measured.peak_gib
    print_fits(series)


@torch.inference_mode()
def decode_untiled(vae: Any, latents: Tensor) -> Tensor:
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    image: Tensor = vae.decode(scaled + vae.config.shift_factor).sample[0]
    return image.float().cpu()


def compare(image: Tensor, untiled: Tensor) -> str:
    """PSNR over the range of [-1, 1], and how much steeper the picture is at borders of 64."""
    error = float((image - untiled).double().square().mean())
    psnr_db = math.inf if error == 0 else 10 * math.log10(4 / error)
    borders = range(512, image.shape[-1], 512)
    steps = [
        sum(float((one[..., x] - one[..., x - 1]).abs().mean()) for x in borders)
        for one in (image, untiled)
    ]
    steeper = f"{steps[0] / steps[1]:.4f}" if steps[1] else "no borders"
    return f"PSNR {psnr_db:6.1f} dB, border gradient {steeper}"


def measure(run_once: Callable[[], Tensor], arguments: argparse.Namespace) -> Measured | None:
    """Run once to warm up, then `repeats` times; None is out of memory."""
    is_gpu = arguments.device == "cuda"
    try:
        outcome = run_once()
        reset_peak(is_gpu)
        times_ms = [time_ms(run_once, is_gpu) for _ in range(arguments.repeats)]
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    peak, pinned = peaks_gib(is_gpu)
    return Measured(statistics.median(times_ms), peak, pinned, outcome)


def time_ms(run_once: Callable[[], Tensor], is_gpu: bool) -> float:
    synchronise(is_gpu)
    started_at = time.perf_counter()
    run_once()
    synchronise(is_gpu)
    return (time.perf_counter() - started_at) * 1e3


def synchronise(is_gpu: bool) -> None:
    if is_gpu:
        torch.cuda.synchronize()


def reset_peak(is_gpu: bool) -> None:
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_peak_host_memory_stats()


def peaks_gib(is_gpu: bool) -> tuple[float, float]:
    if not is_gpu:
        return math.nan, math.nan
    pinned = torch.cuda.host_memory_stats().get("allocated_bytes.peak", 0)
    return torch.cuda.max_memory_allocated() / GIB, pinned / GIB


def report(name: str, measured: Measured | None, remark: str) -> None:
    figures = "does not fit"
    if measured is not None:
        figures = f"{measured.median_ms:9.0f} ms {measured.peak_gib:6.2f} GiB"
    print(f"{name:32} {figures:24} {remark}", flush=True)


def print_fits(series: dict[str, dict[int, float]]) -> None:
    for name, peaks in series.items():
        if len(peaks) > 1 and peaks[max(peaks)] > peaks[min(peaks)]:
            print(f"{name:32} {fit_peak_memory(peaks)}")


if __name__ == "__main__":
    main()
