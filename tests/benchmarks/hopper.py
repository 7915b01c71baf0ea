"""Prompt to file at the true size on one Hopper GPU, beside stock diffusers, in one run.

    python tests/benchmarks/hopper.py --out hopper.json [--parts PART,...] [--sizes 512 1024 2048]

Models are built with seeded random weights; pictures are noise, their cost is not. Every figure is
the median of `--repeats` runs with their spread, one picture at a time, the prompt never cached.
Parts: `ours`, `float8` and `int8` (this service's stages in turn), `stock` (diffusers, eager),
`compiled` (its best recipe: the whole transformer with CUDA graphs and cuDNN), `quality`,
`saturated`, `profile`. `--tiny` runs the same on the CPU at a tiny size, to try the script.
"""

import argparse
import contextlib
import copy
import gc
import io
import itertools
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

from true_size import build_true_size

from pipeline.acceleration.attention import ATTENTION_NAMES, build_attention, choose_attention
from pipeline.acceleration.options import AUTO, Acceleration, BlockKernels, Precision
from pipeline.denoising.cost import ForwardCost, pad_tokens
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.image_file import OutputFormat, encode_image
from pipeline.latents import draw_noise
from pipeline.provenance import ImageProvenance
from pipeline.request import DenoiseRequest, ImageSize, PromptEncoding, RenderPath
from pipeline.text_encoder import QwenTextEncoder, build_prompt_layers
from pipeline.vae.fitting import FittingVaeDecoder
from tests.benchmarks.step_loop_gpu import difference, kernel_s

PROMPT = "a red circle left of a blue square on a white background, " * 4
NUM_STEPS = 8
EXACT_LAYERS = ("*.attention.to_out", "*.feed_forward.w1")
WAYS = {
    "ours": Acceleration(BlockKernels.FUSED, Precision.BFLOAT16),
    "float8": Acceleration(BlockKernels.FUSED, Precision.FLOAT8),
    "int8": Acceleration(BlockKernels.FUSED, Precision.INT8),
    "float8, two products exact": Acceleration(BlockKernels.FUSED, Precision.FLOAT8, EXACT_LAYERS),
}


@dataclass
class Timing:
    """Milliseconds."""

    median: float
    least: float
    most: float


@dataclass
class Report:
    """What is printed as a table and written as JSON."""

    machine: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, name: str, **figures: object) -> None:
        """Add one row, and say it."""
        self.rows.append({"part": part, "name": name, **figures})
        told = ", ".join(f"{key} {_spell(value)}" for key, value in figures.items())
        print(f"{part:10} {name:44} {told}", flush=True)


def _spell(value: object) -> str:
    if isinstance(value, Timing):
        return f"{value.median:.1f} ms ({value.least:.1f} to {value.most:.1f})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Stages:
    """This service's stages over one set of weights, as its deployments run them."""

    def __init__(self, bench: "Bench", acceleration: Acceleration | None) -> None:
        models = bench.models
        attention = choose_attention(bench.options.attention, models.device)
        self.transformer = PackedTransformer(
            models.transformer,
            build_attention(attention.packed, models.device),
            solo_attention=build_attention(attention.solo, models.device),
            acceleration=None if models.is_tiny else acceleration,
            keeps_source=True,
        )
        self.loop = StepLoop(self.transformer)
        self._prompts = itertools.count()
        self.text_encoder = bench.text_encoder
        self.decoder = bench.decoder

    def draw(self, size: ImageSize, output_format: OutputFormat) -> bytes:
        """Draw one picture, prompt to file; no two prompts are the same, nor their captions."""
        encoding = self.text_encoder.encode(f"{PROMPT}{next(self._prompts):04d}")
        return self.finish(self.denoise(size, encoding), size, output_format)

    def denoise(self, size: ImageSize, encoding: PromptEncoding, seed: int = 0) -> Tensor:
        """Return the latents."""
        request = DenoiseRequest(
            f"{size}-{seed}", encoding, size, seed=seed, num_inference_steps=NUM_STEPS
        )
        return self.loop.denoise(request).latents

    def finish(self, latents: Tensor, size: ImageSize, output_format: OutputFormat) -> bytes:
        """Return the file."""
        pixels = self.decoder.decode(latents)
        return encode_image(pixels, _provenance(size), output_format=output_format)


class Bench:
    """The models, the ways over them, and the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cpu" if options.tiny else "cuda")
        dtype = torch.float32 if options.tiny else torch.bfloat16
        self.models = build_true_size(self.device, dtype, is_tiny=options.tiny)
        self.sizes = [ImageSize(side, side) for side in options.sizes]
        self.report = Report(_describe_machine(self.device))
        attention = choose_attention(options.attention, self.device)
        self.report.machine["attention"] = attention.identify()
        self.peer = self._build_peer()
        self.prompt_embeds = self._encode_by_stock()
        kernels = BlockKernels.MODULES if options.tiny else BlockKernels.FUSED
        layers = build_prompt_layers(
            copy.deepcopy(self.models.language_model),
            Acceleration(kernels, Precision.BFLOAT16),
            self.device,
        )
        self.text_encoder = QwenTextEncoder(self.models.tokenizer, layers)
        self.decoder = FittingVaeDecoder(self.models.vae, kernels=kernels)

    def time(
        self, run: Callable[[], object], *, warm: int = 3, size: ImageSize | None = None
    ) -> Timing:
        """Time one call after another; a shape is recorded by its second and third call.

        Pictures that take seconds are timed less often.
        """
        is_long = size is not None and size.height > 1024
        for _ in range(1 if is_long else warm):
            run()
        samples = []
        for _ in range(2 if is_long else self.options.repeats):
            self.synchronize()
            begun = time.perf_counter()
            run()
            self.synchronize()
            samples.append(1000 * (time.perf_counter() - begun))
        return Timing(statistics.median(samples), min(samples), max(samples))

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _build_peer(self) -> ZImagePipeline:
        models = self.models
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
        pipeline = ZImagePipeline(
            scheduler, models.vae, models.language_model, models.tokenizer, models.transformer
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _encode_by_stock(self) -> Tensor:
        embeds, _ = self.peer.encode_prompt(
            PROMPT, device=self.device, do_classifier_free_guidance=False
        )
        first: Tensor = embeds[0]
        return first

    def draw_by_peer(self, size: ImageSize, output_format: OutputFormat) -> bytes:
        """Draw one picture by diffusers, prompt to file by Pillow."""
        image = self.peer(
            PROMPT,
            height=size.height,
            width=size.width,
            num_inference_steps=NUM_STEPS,
            guidance_scale=0.0,
            generator=torch.Generator("cpu").manual_seed(0),
        ).images[0]
        content = io.BytesIO()
        image.save(content, output_format.value, quality=95)
        return content.getvalue()


def measure_stages(bench: Bench, part: str, acceleration: Acceleration) -> None:
    """Prompt to file, and each stage by itself."""
    stages = Stages(bench, acceleration)
    try:
        num_tokens = bench.text_encoder.encode(PROMPT).prompt_embeds.shape[0]
        encode = bench.time(partial(bench.text_encoder.encode, PROMPT))
        bench.report.add(part, f"text encoder, {num_tokens} tokens", encode=encode)
        for size in bench.sizes:
            encoding = bench.text_encoder.encode(PROMPT)
            latents = stages.denoise(size, encoding)
            bench.report.add(
                part,
                f"{size} prompt to file",
                jpeg=bench.time(partial(stages.draw, size, OutputFormat.JPEG), size=size),
                png=bench.time(partial(stages.draw, size, OutputFormat.PNG), warm=1, size=size),
                denoise=bench.time(partial(stages.denoise, size, encoding), size=size),
                decode=bench.time(partial(bench.decoder.decode, latents), size=size),
            )
    finally:
        stages.loop.close()


def measure_stock(bench: Bench, part: str) -> None:
    """Diffusers, eager."""
    for size in bench.sizes:
        draw = partial(bench.draw_by_peer, size, OutputFormat.JPEG)
        bench.report.add(part, f"{size} prompt to file", jpeg=bench.time(draw, warm=1, size=size))


def measure_compiled(bench: Bench, part: str) -> None:
    """The best recipe for stock diffusers: a whole compile with graphs, and cuDNN's attention."""
    transformer = bench.peer.transformer
    if not bench.options.tiny:
        transformer.set_attention_backend("_native_cudnn")
    torch._dynamo.config.recompile_limit = 64
    try:
        for size in bench.sizes:
            if size.height > 1024:
                continue
            torch._dynamo.reset()
            bench.peer.transformer = torch.compile(
                transformer, mode="reduce-overhead", fullgraph=True
            )
            draw = partial(bench.draw_by_peer, size, OutputFormat.JPEG)
            bench.report.add(part, f"{size} prompt to file", jpeg=bench.time(draw, warm=2))
    finally:
        bench.peer.transformer = transformer
        transformer.set_attention_backend("native")
        torch._dynamo.reset()


def measure_quality(bench: Bench, part: str) -> None:
    """Latents and velocities against the modules' own, beside two stock kernels of attention."""
    size = bench.sizes[-1] if bench.options.tiny else ImageSize(1024, 1024)
    encoding = PromptEncoding(bench.prompt_embeds.cpu())
    stock = {}
    for kernel in ("native",) if bench.options.tiny else ("_native_flash", "_native_cudnn"):
        bench.models.transformer.set_attention_backend(kernel)
        stock[kernel] = _draw_latents_by_peer(bench, size)
    bench.models.transformer.set_attention_backend("native")
    first, last = next(iter(stock.values())), list(stock.values())[-1]
    bench.report.add(part, "stock, cuDNN to flash", latents=difference(last, first))
    reference: list[Tensor] = []
    for name, acceleration in [("modules", None), *WAYS.items()]:
        stages = Stages(bench, acceleration)
        item = PackedItem(
            draw_noise(size, seed=0)[0].to(bench.device),
            0.0,
            stages.transformer.encode_caption(encoding.prompt_embeds.to(bench.device)),
        )
        velocity = stages.transformer.predict_velocity([item])[0]
        latents = stages.denoise(size, encoding)
        stages.loop.close()
        reference = reference or [velocity, latents]
        bench.report.add(
            part,
            name,
            velocity=difference(velocity, reference[0]),
            latents=difference(latents, reference[1]),
            to_stock=difference(latents, last),
        )


def measure_saturated(bench: Bench, part: str) -> None:
    """Pictures a second while one more always waits, decoding beside the next denoising."""
    size = bench.sizes[0] if bench.options.tiny else ImageSize(1024, 1024)
    count = 3 if bench.options.tiny else 12
    for name in ("ours", "float8", "int8"):
        stages = Stages(bench, WAYS[name])
        for _ in range(3):
            stages.draw(size, OutputFormat.JPEG)
        begun = time.perf_counter()
        with _sample_power(bench.device) as power, ThreadPoolExecutor(1) as pool:
            files = [
                pool.submit(
                    stages.finish,
                    stages.denoise(size, stages.text_encoder.encode(PROMPT), seed),
                    size,
                    OutputFormat.JPEG,
                )
                for seed in range(count)
            ]
            [file.result() for file in files]
            elapsed_s = time.perf_counter() - begun
        stages.loop.close()
        bench.report.add(part, f"{name}, {size}", images_a_second=count / elapsed_s, **power)


@contextlib.contextmanager
def _sample_power(device: torch.device) -> Iterator[dict[str, float]]:
    """Sample the card twice a second; what is yielded is filled with medians at the end."""
    medians: dict[str, float] = {}
    if device.type == "cpu":
        yield medians
        return
    uuid = torch.cuda.get_device_properties(device).uuid
    fields = ["power.draw", "power.limit", "clocks.sm"]
    command = ["nvidia-smi", "-i", f"GPU-{uuid}", f"--query-gpu={','.join(fields)}"]
    sampler = subprocess.Popen(
        [*command, "--format=csv,noheader,nounits", "-lms", "500"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield medians
    finally:
        sampler.terminate()
        lines = sampler.communicate()[0].splitlines()
    columns = zip(*(map(float, line.split(",")) for line in lines), strict=True)
    medians.update(zip(("watts", "limit", "mhz"), map(statistics.median, columns), strict=False))


def measure_profile(bench: Bench, part: str) -> None:
    """Where a forward's time goes, by kind of kernel, beside the floor at this card's own peaks."""
    if bench.options.tiny:
        return
    peaks = _measure_peaks(bench.device)
    bench.report.add(part, "peaks", **peaks)
    config = bench.models.transformer.config
    for name in ("ours", "float8", "int8"):
        for size in bench.sizes:
            stages = Stages(bench, WAYS[name])
            caption = stages.transformer.encode_caption(bench.prompt_embeds)
            item = PackedItem(draw_noise(size, seed=0)[0].to(bench.device), 0.5, caption)
            predict = partial(stages.transformer.predict_velocity, [item])
            taken = bench.time(predict, warm=4)
            with profile(activities=[ProfilerActivity.CUDA]) as profiled:
                for _ in range(3):
                    predict()
                bench.synchronize()
            stages.loop.close()
            tokens = size.num_image_tokens + pad_tokens(caption.num_rows)
            attention = 4e-12 * tokens**2 * config.dim * (config.n_layers + 2)
            whole = ForwardCost.from_config(config).flops(size.num_image_tokens, caption.num_rows)
            products = 1e-12 * whole - attention
            # The card multiplies integers of 8 bits as fast as float8.
            rate = peaks["bfloat16_tflops"] if name == "ours" else peaks["float8_tflops"]
            floor = 1000 * (products / rate + attention / peaks["attention_tflops"])
            bench.report.add(
                part, f"{name}, {size}, a forward", wall=taken, floor_ms=floor, **_by_kind(profiled)
            )


def _by_kind(profiled: Any) -> dict[str, float]:
    kinds = {
        "attention": ("sdpa", "fmha", "flash"),
        "products": ("nvjet", "gemm", "cutlass", "_multiply_kernel"),
        "rows": ("_kernel",),
    }
    sums = dict.fromkeys([*kinds, "rest"], 0.0)
    for event in profiled.key_averages():
        kind = next(
            (kind for kind, marks in kinds.items() if any(mark in event.key for mark in marks)),
            "rest",
        )
        sums[kind] += event.device_time_total / 3000
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type.name == "CUDA"
    ]
    whole = (max(end for _, end in spans) - min(start for start, _ in spans)) / 3000
    return {f"{kind}_ms": total for kind, total in sums.items()} | {"span_ms": whole}


def _measure_peaks(device: torch.device) -> dict[str, float]:
    side = 8192
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    halves = [each.to(torch.float8_e4m3fn) for each in (one, other)]
    scale = torch.ones((), device=device)
    query = torch.randn(1, 30, 16384, 128, device=device, dtype=torch.bfloat16)

    def attend() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(query, query, query)

    product = 2e-12 * side**3
    return {
        "bfloat16_tflops": product / kernel_s(lambda: one @ other),
        "float8_tflops": product
        / kernel_s(
            lambda: torch._scaled_mm(
                halves[0], halves[1].t(), scale, scale, out_dtype=torch.bfloat16
            )
        ),
        "attention_tflops": 4e-12 * 16384**2 * 3840 / kernel_s(attend),
    }


def _draw_latents_by_peer(bench: Bench, size: ImageSize) -> Tensor:
    latents: Tensor = bench.peer(
        prompt_embeds=[bench.prompt_embeds],
        height=size.height,
        width=size.width,
        num_inference_steps=NUM_STEPS,
        guidance_scale=0.0,
        latents=draw_noise(size, seed=0).to(bench.device),
        output_type="latent",
    ).images
    return latents


def _provenance(size: ImageSize) -> ImageProvenance:
    return ImageProvenance(
        "benchmark", "0", "random", "0", 0, size, NUM_STEPS, RenderPath.FULL_IMAGE, "benchmark"
    )


def _describe_machine(device: torch.device) -> dict[str, str]:
    name = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    versions = {each.__name__: each.__version__ for each in (torch, diffusers, transformers)}
    return {"device": name, "date": datetime.now(UTC).date().isoformat(), **versions}


PARTS: dict[str, Callable[[Bench, str], None]] = {
    "ours": lambda bench, part: measure_stages(bench, part, WAYS["ours"]),
    "float8": lambda bench, part: measure_stages(bench, part, WAYS["float8"]),
    "int8": lambda bench, part: measure_stages(bench, part, WAYS["int8"]),
    "saturated": measure_saturated,
    "quality": measure_quality,
    "profile": measure_profile,
    "stock": measure_stock,
    "compiled": measure_compiled,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=None)
    parser.add_argument("--attention", default=AUTO, choices=(AUTO, *ATTENTION_NAMES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("hopper.json"))
    parser.add_argument("--tiny", action="store_true", help="tiny models, on the CPU")
    options = parser.parse_args()
    options.sizes = options.sizes or ([64, 128] if options.tiny else [512, 1024, 2048])
    bench = Bench(options)
    print(bench.report.machine, flush=True)
    has_failed = False
    for part in options.parts.split(","):
        try:
            with torch.no_grad():
                PARTS[part](bench, part)
        except Exception:  # noqa: BLE001
            # A part that fails must not cost the others their time on the device.
            has_failed = True
            traceback.print_exc()
        gc.collect()
        options.out.write_text(json.dumps(asdict(bench.report), indent=1))
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
