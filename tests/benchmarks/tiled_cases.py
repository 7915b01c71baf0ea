"""What `tiled_gpu.py` measures: one stage, one size, one way."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from loop_executor import LoopTileExecutor
from tile_executor import TransformerTileExecutor
from tiled_denoiser import TileExecutor
from torch import Tensor
from transformer_work import passes_flop
from true_size import build_transformer, build_vae

from pipeline.acceleration.attention import build_attention, choose_attention
from pipeline.acceleration.options import AUTO, AccelerationOptions, choose_acceleration
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.tiled import TiledRun, TileItem
from pipeline.denoising.transformer import PackedTransformer
from pipeline.errors import OutOfMemoryError
from pipeline.request import DenoiseRequest, ImageSize, PromptEncoding
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import TilingOptions, plan_passes
from pipeline.vae.planes import build_fused_ops
from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions

GIB = 2**30
NUM_STEPS = 8
DENOISER_WAYS = ("full", "tiled", "base")
VAE_WAYS = ("full", "tiled", "fused", "on-device")


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    stage: str
    pixels: int
    way: str
    device: str = "cuda"
    dtype: str = "bfloat16"
    cap_gib: float = 14.75
    """0 is no cap."""
    is_tiny: bool = False
    num_timed_steps: int = NUM_STEPS
    """Steps that are run of a full-image denoising; its time is that of all eight by proportion."""
    precision: str = AUTO
    """Of the denoiser's blocks, as the configuration has it."""
    executor: str = "loop"
    """`loop` is the service's step loop, `stock` diffusers' own modules, eager."""

    @property
    def name(self) -> str:
        """The row's name."""
        precision = self.dtype if self.precision == AUTO else self.precision
        return f"{self.stage} {self.pixels} {self.way} {precision}"


def measure(case: Case) -> dict[str, Any]:
    """Run a case under its cap; what does not fit says so."""
    if case.cap_gib and case.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(case.cap_gib * GIB / total)
    try:
        return {"denoiser": measure_denoiser, "vae": measure_vae}[case.stage](case)
    except (torch.OutOfMemoryError, OutOfMemoryError):
        return {"outcome": "does not fit"}


@torch.inference_mode()
def measure_denoiser(case: Case) -> dict[str, Any]:
    """Time the steps of one picture; kernels are warmed by a forward of each tile shape."""
    executor, caption_dim = build_executor(case)
    size = ImageSize(case.pixels, case.pixels)
    encoding = PromptEncoding(torch.randn(64, caption_dim))
    request = DenoiseRequest("benchmark", encoding, size, seed=0, num_inference_steps=NUM_STEPS)
    options = tiling_options(case, size)
    executor.prepare_caption(request.id, encoding)
    passes = plan_passes(size, build_schedule(NUM_STEPS), options)
    for one in passes:
        warm = torch.randn(16, one.plan.tile_height, one.plan.tile_width)
        executor.predict_velocities([TileItem(warm, 0.5, (0, 0), request.id)] * 2)
    run = TiledRun(request, options)
    reset_peak(case)
    num_steps = sum(len(one.steps) for one in passes)
    timed = min(num_steps, case.num_timed_steps) if case.way == "full" else num_steps
    started_at = time.perf_counter()
    for _ in range(timed):
        run.take(executor.predict_velocities(run.next_items()))
    took_ms = (time.perf_counter() - started_at) * 1e3 * num_steps / timed
    return {
        "ms": took_ms,
        "timed_steps": f"{timed} of {num_steps}",
        "tflop": passes_flop(passes) / 1e12,
        "tiles": len(passes[-1].plan.tiles),
        **peaks(case),
    }


def build_executor(case: Case) -> tuple[TileExecutor, int]:
    """Put the transformer behind a step loop, or run its modules as diffusers does."""
    transformer = build_transformer(
        torch.device(case.device), getattr(torch, case.dtype), is_tiny=case.is_tiny
    )
    caption_dim: int = transformer.config.cap_feat_dim
    if case.executor == "stock":
        return TransformerTileExecutor(transformer), caption_dim
    device = torch.device(case.device)
    attention = choose_attention(AUTO, device)
    loop = StepLoop(
        PackedTransformer(
            transformer,
            build_attention(attention.packed, device),
            solo_attention=build_attention(attention.solo, device),
            acceleration=choose_acceleration(AccelerationOptions(precision=case.precision), device),
        )
    )
    return LoopTileExecutor(loop), caption_dim


def tiling_options(case: Case, size: ImageSize) -> TilingOptions:
    """The whole picture as one tile, the default tiles alone, or with the base pass."""
    if case.way == "full":
        return TilingOptions(tile_size=math.ceil(size.latent_height / 8) * 8)
    tile_size, base = (24, 128 * 128) if case.is_tiny else (96, 768 * 768)
    start_sigma = 1 if case.way == "tiled" else TilingOptions().start_sigma
    return TilingOptions(tile_size=tile_size, start_sigma=start_sigma, base_max_pixels=base)


def measure_vae(case: Case) -> dict[str, Any]:
    """Time the second of two decodes, the first of which chooses convolutions."""
    vae = build_vae(torch.device(case.device), getattr(torch, case.dtype), is_tiny=case.is_tiny)
    decode = build_decode(vae, case.way)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, case.pixels // 8, case.pixels // 8, generator=generator)
    decode(latents)
    reset_peak(case)
    started_at = time.perf_counter()
    image = decode(latents)
    took_ms = (time.perf_counter() - started_at) * 1e3
    return {"ms": took_ms, **peaks(case), **compare_with_full(vae, latents, image, case)}


def build_decode(vae: Any, way: str) -> Callable[[Tensor], Tensor]:
    """Return latents to [H, W, 3] float32 on the CPU."""
    if way == "full":
        return lambda latents: decode_untiled(vae, latents)
    on_device = VaeTilingOptions(device_bytes_per_latent=ALL_ON_DEVICE)
    if way == "tiled":
        return TiledVaeDecoder(vae).decode_image
    ops = build_fused_ops(vae) if way == "fused" else None
    return TiledVaeDecoder(vae, on_device, ops).decode_image


@torch.inference_mode()
def decode_untiled(vae: Any, latents: Tensor) -> Tensor:
    """Decode in one piece, by diffusers' own forward."""
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    image: Tensor = vae.decode(scaled + vae.config.shift_factor).sample[0].permute(1, 2, 0)
    return image.float().cpu()


def compare_with_full(vae: Any, latents: Tensor, image: Tensor, case: Case) -> dict[str, Any]:
    """PSNR over [-1, 1] against the untiled decode, and the gradient at borders against its own.

    The untiled decode is outside the cap and after the measurement; above 2048 px it is left out.
    """
    if case.way == "full" or case.pixels > 2048:
        return {}
    if case.cap_gib and case.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    untiled = decode_untiled(vae, latents)
    error = float((image - untiled).double().square().mean())
    borders = list(range(512, case.pixels, 512)) or [case.pixels // 2]
    steps = [float((one[:, borders] - one[:, [x - 1 for x in borders]]).abs().mean())
             for one in (image, untiled)]  # fmt: skip
    psnr_db = math.inf if error == 0 else 10 * math.log10(4 / error)
    return {"psnr_db": psnr_db, "border_gradient": steps[0] / steps[1]}


def reset_peak(case: Case) -> None:
    """Forget what building and warming up took."""
    if case.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_peak_host_memory_stats()


def peaks(case: Case) -> dict[str, float]:
    """Most GiB allocated and reserved on the card, and pinned on the host for tiles that wait."""
    if case.device != "cuda":
        return {}
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
        "pinned_gib": torch.cuda.host_memory_stats().get("allocated_bytes.peak", 0) / GIB,
    }
