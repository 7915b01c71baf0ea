"""The VAE decoder's ways to compute at the true size, on seeded random weights.

    python tests/benchmarks/vae_gpu.py [--sizes 512 1024 2048] [--tiny]

Prints how far each way is from stock float32, times, peaks of memory, and where the time of one
1024x1024 decode goes. `--tiny` is a small model on the CPU, with TRITON_INTERPRET=1.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

from random_vae import build_vae

from pipeline.vae.network import DecoderNetwork
from pipeline.vae.planes import build_fused_ops
from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions
from pipeline.vae_decoder import FullImageVaeDecoder, to_uint8, to_vae_scale

TRUE_SIZE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "norm_num_groups": 32,
    "sample_size": 1024,
}
Decode = Callable[[Tensor], Tensor]
started = time.monotonic()


class Bench:
    """One model and its ways."""

    def __init__(self, *, is_tiny: bool) -> None:
        self.device = torch.device("cpu" if is_tiny else "cuda")
        self.dtype = torch.float32 if is_tiny else torch.bfloat16
        vae = build_vae(**({} if is_tiny else TRUE_SIZE))
        vae.encoder = None
        self.vae = vae.to(self.device, self.dtype)
        self.is_tiny = is_tiny
        self.ops = build_fused_ops(self.vae)
        self.fused = DecoderNetwork(self.vae, self.ops)

    def latents(self, size: int) -> Tensor:
        side = size // 8
        drawn = torch.randn(1, 16, side, side, generator=torch.Generator().manual_seed(size))
        return drawn.to(self.device, self.dtype)

    def stock(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return decoded

    def time_ms(self, run: Callable[[], object], *, repeats: int = 5, warm: int = 2) -> list[float]:
        for _ in range(warm):
            run()
        self.wait()
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            run()
            self.wait()
            times.append((time.perf_counter() - begun) * 1e3)
        return sorted(times)

    def wait(self) -> None:
        if not self.is_tiny:
            torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    bench = Bench(is_tiny=options.tiny)
    with torch.inference_mode():
        check(bench, 64 if options.tiny else 1024)
        for size in [64] if options.tiny else options.sizes:
            time_size(bench, size)
        if not options.tiny:
            break_down(bench)
    return 0


def check(bench: Bench, size: int) -> None:
    """Compare each way with stock float32, on the same (rounded) weights."""
    latents = bench.latents(size)
    stock, fused = bench.stock(latents).float(), bench.fused(latents).float()
    again = bench.fused(latents).float()
    torch.backends.cudnn.allow_tf32 = False
    bench.vae.float()
    exact = bench.stock(latents.float())
    bench.vae.to(bench.dtype)
    say(f"relative difference at {size}: stock to float32 {distance(stock, exact):.5f}")
    say(f"  fused to float32 {distance(fused, exact):.5f}, to stock {distance(fused, stock):.5f}")
    say(f"  same bytes again: {torch.equal(fused, again)}")


def time_size(bench: Bench, size: int) -> None:
    """Time the stock decode and each way of ours, one after another, from latents to pixels."""
    latents, vae, ops = bench.latents(size), bench.vae, bench.ops
    on_device = VaeTilingOptions(device_bytes_per_latent=ALL_ON_DEVICE)
    ways: dict[str, Decode] = {
        "stock": lambda latents: to_uint8(bench.stock(to_vae_scale(latents, vae))),
        "modules": FullImageVaeDecoder(vae).decode,
        "fused": FullImageVaeDecoder(vae, ops).decode,
        "fused, recorded": FullImageVaeDecoder(vae, ops, records=not bench.is_tiny).decode,
        "modules in tiles": TiledVaeDecoder(vae, on_device).decode,
        "fused in tiles": TiledVaeDecoder(vae, on_device, ops).decode,
        "fused, parked": TiledVaeDecoder(vae, None, ops).decode,
    }
    expected = ways["stock"](latents).float()
    for name in list(ways):
        decode = ways.pop(name)
        gc.collect()
        if not bench.is_tiny:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        times = bench.time_ms(partial(decode, latents), repeats=1 if bench.is_tiny else 5)
        peak = 0.0 if bench.is_tiny else torch.cuda.max_memory_allocated() / 2**30
        apart = (decode(latents).float() - expected).abs().mean()
        say(
            f"{size} {name:16s} median {statistics.median(times):8.2f} ms "
            f"({times[0]:.2f} to {times[-1]:.2f}), peak {peak:.2f} GiB, "
            f"{apart:.2f} levels from stock"
        )


def break_down(bench: Bench) -> None:
    """Say which kernels take the time of a 1024x1024 decode."""
    latents = bench.latents(1024)
    bench.fused(latents)
    bench.wait()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        bench.fused(latents)
        bench.wait()
    spent: dict[str, tuple[float, int]] = {}
    for event in profiled.events():
        if event.device_type.name == "CUDA":
            total, count = spent.get(event.name, (0.0, 0))
            spent[event.name] = (total + event.device_time_total / 1e3, count + 1)
    say(f"kernels of one decode: {sum(total for total, _ in spent.values()):.2f} ms")
    for name, (total, count) in sorted(spent.items(), key=lambda item: -item[1][0])[:20]:
        say(f"  {total:7.3f} ms {count:4d} x {name[:110]}")


def distance(some: Tensor, other: Tensor) -> float:
    return float((some - other).norm() / other.norm())


def say(*words: object) -> None:
    print(f"[{time.monotonic() - started:5.1f}s]", *words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
