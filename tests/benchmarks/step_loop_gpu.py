"""The step loop on one GPU at the model's true size, with random weights, against diffusers.

    python tests/benchmarks/step_loop_gpu.py --parts linears,parity,loop,small,join
        [--kernels fused] [--precision float8] [--attention auto] [--step-units 8]

Parts print a line a figure. `--tiny` runs every part on the CPU at a tiny size, to try the script.
"""

import argparse
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

from true_size import build_transformer

from pipeline.acceleration.attention import ATTENTION_NAMES, build_attention, choose_attention
from pipeline.acceleration.options import AUTO, Acceleration, BlockKernels, Precision
from pipeline.denoising.batching import BatchingLimits
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.packing import SharingLimits
from pipeline.denoising.sameness import linears_of_packed_rows
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.denoising.work import Outcome
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, DenoiseResult, ImageSize, PromptEncoding, StepEvent

BEGUN = time.perf_counter()
MIXED = [
    (512, 512),
    (1024, 1024),
    (512, 512),
    (720, 1280),
    (768, 768),
    (512, 512),
    (1024, 1024),
    (768, 768),
    (720, 1280),
    (512, 512),
]


def say(*words: object) -> None:
    print(f"[{time.perf_counter() - BEGUN:6.1f}s]", *words, flush=True)


class Bench:
    """The model, the loop around it and the pipeline around it."""

    def __init__(self, options: argparse.Namespace) -> None:
        is_tiny: bool = options.tiny
        self.is_tiny = is_tiny
        self.scale = 8 if is_tiny else 1
        self.device = torch.device("cpu" if is_tiny else "cuda")
        self.dtype = torch.float32 if is_tiny else torch.bfloat16
        self.model = build_transformer(self.device, self.dtype, is_tiny=is_tiny)
        self.caption_dim = self.model.config.cap_feat_dim
        begun = time.perf_counter()
        self.options = options
        attention = choose_attention(options.attention, self.device)
        self.transformer = self.pack()
        say(
            f"packed transformer in {time.perf_counter() - begun:.1f} s, forwards are shared:",
            self.transformer.shares_forwards,
            "attention:",
            attention.identify(),
            "rows:",
            type(self.transformer._shared._ops).__name__,
        )
        self.loop = StepLoop(self.transformer, limits=BatchingLimits(step_units=options.step_units))
        self.stock = self._build_stock()

    def pack(self, limits: SharingLimits | None = None) -> PackedTransformer:
        """Pack the weights once more."""
        options = self.options
        attention = choose_attention(options.attention, self.device)
        return PackedTransformer(
            self.model,
            build_attention(attention.packed, self.device),
            solo_attention=build_attention(attention.solo, self.device),
            acceleration=Acceleration(BlockKernels(options.kernels), Precision(options.precision)),
            keeps_source=True,
            limits=limits,
        )

    def _build_stock(self) -> ZImagePipeline:
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            norm_num_groups=4,
        ).to(self.device)
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
        pipeline = ZImagePipeline(scheduler, vae, None, None, self.model)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def request(self, index: int, height: int, width: int, steps: int = 8) -> DenoiseRequest:
        generator = torch.Generator().manual_seed(index)
        num_tokens = 24 + 37 * index % 100
        embeds = torch.randn(num_tokens, self.caption_dim, generator=generator)
        side = 16 * self.scale
        size = ImageSize(height // side * 16, width // side * 16)
        encoding = PromptEncoding(embeds.to(self.dtype))
        return DenoiseRequest(f"{index}", encoding, size, seed=index, num_inference_steps=steps)

    def requests(self, sizes: Sequence[tuple[int, int]]) -> list[DenoiseRequest]:
        return [self.request(index, *size) for index, size in enumerate(sizes)]

    def draw_stock(self, requests: Sequence[DenoiseRequest]) -> Tensor:
        """Draw pictures of one size by diffusers' own list batching."""
        size = requests[0].size
        latents = torch.cat([draw_noise(size, seed=request.seed) for request in requests])
        drawn: Tensor = self.stock(
            prompt_embeds=[
                request.encoding.prompt_embeds.to(self.device, self.dtype) for request in requests
            ],
            height=size.height,
            width=size.width,
            num_inference_steps=requests[0].num_inference_steps,
            guidance_scale=0.0,
            latents=latents.to(self.device),
            output_type="latent",
        ).images
        return drawn

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time_s(
        self, name: str, run: Callable[[], object], warm: int = 1, repeats: int = 3
    ) -> float:
        for _ in range(warm):
            run()
        samples = []
        for _ in range(repeats):
            self.synchronize()
            begun = time.perf_counter()
            run()
            self.synchronize()
            samples.append(time.perf_counter() - begun)
        median = statistics.median(samples)
        spread = f"{1000 * min(samples):.1f} to {1000 * max(samples):.1f}"
        say(f"{name:58s} {1000 * median:9.1f} ms ({spread})")
        return median


def run_together(loop: StepLoop, requests: Sequence[DenoiseRequest]) -> list[Tensor]:
    outcomes: list[SimpleQueue[Outcome]] = [SimpleQueue() for _ in requests]
    for request, queue in zip(requests, outcomes, strict=True):
        loop.submit(request, queue.put)
    return [_last(queue).latents for queue in outcomes]


def _last(outcomes: SimpleQueue[Outcome]) -> DenoiseResult:
    while isinstance(outcome := outcomes.get(), StepEvent):
        pass
    if not isinstance(outcome, DenoiseResult):
        raise TypeError(f"a run must end in latents, got {outcome!r}")
    return outcome


def difference(one: Tensor, other: Tensor) -> float:
    one, other = one.float().cpu(), other.float().cpu()
    return float((one - other).norm() / other.norm())


def measure_linears(bench: Bench) -> None:
    """Row invariance of the library's product and of the fixed one, and their rates."""
    distinct = {tuple(each.weight.shape): each for each in linears_of_packed_rows(bench.model)}
    counts = [1024, 1152, 2304, 2432, 3840, 4096, 4608, 8192, 8704] if not bench.is_tiny else [64]
    for (cols, inner), linear in distinct.items():
        rows = torch.randn(max(counts), inner, device=bench.device, dtype=bench.dtype)
        reference = linear(rows)
        differ = [
            count for count in counts if not torch.equal(linear(rows[-count:]), reference[-count:])
        ]
        say(f"library product {inner} -> {cols}: rows differ at", differ)
    if bench.is_tiny:
        return
    from pipeline.denoising.triton_linear import multiply_rows

    for (cols, inner), linear in distinct.items():
        if min(cols, inner) < 1024:
            continue
        for count in (1152, 4608, 8704):
            rows = torch.randn(count, inner, device=bench.device, dtype=bench.dtype)
            weight, bias = linear.weight, linear.bias
            teraflops = 2e-12 * count * cols * inner
            library = teraflops / kernel_s(partial(linear, rows))
            fixed = teraflops / kernel_s(partial(multiply_rows, rows, weight, bias))
            error = difference(multiply_rows(rows, weight, bias), linear(rows))
            say(
                f"product {count} x {inner} -> {cols}: library {library:.0f} TFLOP/s, "
                f"fixed {fixed:.0f} TFLOP/s, relative difference {error:.1e}"
            )


def kernel_s(run: Callable[[], object]) -> float:
    """Time launches one after another, the device waited for once."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(20):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / 20


def measure_parity(bench: Bench) -> None:
    """Bytes together and alone; distance to diffusers beside that of its own two kernels."""
    requests = bench.requests(MIXED)
    together = [run_together(bench.loop, requests) for _ in range(2)]
    alone = [bench.loop.denoise(request).latents for request in requests]
    again = [bench.loop.denoise(request).latents for request in requests]
    equal = [sum(map(torch.equal, each, alone)) for each in together]
    say(f"equal bytes together and alone, twice: {equal} of {len(requests)}")
    say(f"equal bytes alone and alone again: {sum(map(torch.equal, again, alone))}")
    kernels = ("native",) * 2 if bench.is_tiny else ("_native_flash", "_native_cudnn")
    for index in (0, 4, 3, 1):
        request, drawn = requests[index], []
        for kernel in kernels:
            bench.model.set_attention_backend(kernel)
            drawn.append(bench.draw_stock([request]))
        ours = [difference(alone[index], each) for each in drawn]
        say(
            f"{request.size}: ours to diffusers with flash {ours[0]:.2e}, cuDNN {ours[1]:.2e}, "
            f"its cuDNN to its flash {difference(drawn[1], drawn[0]):.2e}"
        )
    bench.model.set_attention_backend("native")


def measure_loop(bench: Bench) -> None:
    """Pictures together, and one after another through the same loop."""
    for name, sizes in (
        ("1 x 512x512", [(512, 512)]),
        ("8 x 512x512", [(512, 512)] * 8),
        ("1 x 1024x1024", [(1024, 1024)]),
        ("4 x 1024x1024", [(1024, 1024)] * 4),
        ("mixed stream of 10", MIXED),
    ):
        requests = bench.requests(sizes)
        rows = bench.transformer.shared_rows
        rows.owned = rows.run = 0
        taken = bench.time_s(f"loop: {name}", partial(run_together, bench.loop, requests), 2)
        each = 1000 * taken / len(requests)
        say(f"    {each:.1f} ms a picture, waste by fixed shapes {100 * rows.waste:.1f} % of rows")
    say("live rate", bench.loop.backlog().rate_units_s, "cost units a second")


def build_items(bench: Bench, sizes: Sequence[tuple[int, int]]) -> list[PackedItem]:
    """Requests in the middle of their steps."""
    items = []
    for request in bench.requests(sizes):
        caption = bench.transformer.encode_caption(request.encoding.prompt_embeds)
        latents = draw_noise(request.size, seed=request.seed)[0].to(bench.device)
        items.append(PackedItem(latents, 0.5, caption))
    return items


def measure_forward(bench: Bench) -> None:
    """One forward without the loop: what the host adds is the difference to a step of it."""
    for count in (1, 8):
        items = build_items(bench, [(512, 512)] * count)
        bench.time_s(
            f"forward of {count} x 512x512",
            partial(bench.transformer.predict_velocity, items),
            warm=3,
            repeats=5,
        )


def measure_small(bench: Bench) -> None:
    """A step of small pictures: each with a forward of its own, and as they share them."""
    apart = bench.pack(SharingLimits(solo_rows=0, max_rows=128))
    say("forwards are shared:", bench.transformer.shares_forwards)
    sides = ((128, 1), (128, 16), (256, 1), (256, 4), (256, 12), (384, 1), (384, 4), (448, 1))
    for side, count in (*sides, (448, 4)):
        items = build_items(bench, [(side, side)] * count)
        taken = [
            bench.time_s(
                f"step of {count} x {side}x{side}, {name}",
                partial(transformer.predict_velocity, items),
                warm=3,
                repeats=9,
            )
            for name, transformer in (("apart", apart), ("shared", bench.transformer))
        ]
        say(f"    shared in {taken[1] / taken[0]:.2f} of the time")


def measure_join(bench: Bench) -> None:
    """A 512x512 that arrives while a 2048x2048 runs."""
    small, large = bench.request(1, 512, 512), bench.request(2, 2048, 2048)
    for _ in range(2):
        bench.loop.denoise(small)
    solo = bench.time_s("join: 512x512 alone", lambda: bench.loop.denoise(small))
    bench.loop.denoise(large)
    whole = bench.time_s("join: 2048x2048 alone", lambda: bench.loop.denoise(large), 0, 1)
    running, outcomes = Event(), SimpleQueue[Outcome]()

    def listen(outcome: Outcome) -> None:
        running.set()
        outcomes.put(outcome)

    bench.loop.submit(large, listen)
    running.wait()
    begun = time.perf_counter()
    bench.loop.denoise(small)
    joined = time.perf_counter() - begun
    _last(outcomes)
    bound = whole / 8 + 1.3 * solo
    say(f"join: 512x512 done after {1000 * joined:.0f} ms, bound {1000 * bound:.0f} ms")


def measure_stock(bench: Bench) -> None:
    """Stock diffusers, eager: one after another, and by its own list batching."""
    mixed = bench.requests(MIXED)
    by_size: dict[ImageSize, list[DenoiseRequest]] = {}
    for request in mixed:
        by_size.setdefault(request.size, []).append(request)
    for backend in ("native",) if bench.is_tiny else ("native", "_native_cudnn"):
        bench.model.set_attention_backend(backend)
        bench.time_s(
            f"diffusers {backend}: mixed stream one after another",
            lambda: [bench.draw_stock([request]) for request in mixed],
            repeats=1,
        )
        bench.time_s(
            f"diffusers {backend}: mixed stream, lists of one size",
            lambda: [bench.draw_stock(requests) for requests in by_size.values()],
            repeats=1,
        )
        for name, sizes in (("1 x 512", [(512, 512)]), ("8 x 512", [(512, 512)] * 8)):
            requests = bench.requests(sizes)
            bench.time_s(f"diffusers {backend}: {name}", partial(bench.draw_stock, requests))
    bench.model.set_attention_backend("native")


def measure_compiled(bench: Bench) -> None:
    """The best recipes for one picture at a time: regional compile, and whole-model graphs."""
    torch._dynamo.config.recompile_limit = 64
    request = bench.request(0, 512, 512)
    bench.model.set_attention_backend("native" if bench.is_tiny else "_native_cudnn")
    # The RoPE table is filled at the first call, in a way that the compiler refuses.
    bench.draw_stock([request])
    bench.stock.transformer = torch.compile(bench.model, mode="reduce-overhead", fullgraph=True)
    bench.time_s(
        "diffusers compiled whole with graphs: 1 x 512", lambda: bench.draw_stock([request]), 2
    )
    # As long as eight at once: a card at the limit of its power is slower than in a short run. Each
    # length of prompt would be compiled anew.
    bench.time_s(
        "diffusers compiled whole with graphs: 8 x 512, one by one",
        lambda: [bench.draw_stock([request]) for _ in range(8)],
    )
    bench.stock.transformer = bench.model
    torch._dynamo.reset()
    bench.model.compile_repeated_blocks(fullgraph=True)
    bench.time_s("diffusers regional compile: 1 x 512", lambda: bench.draw_stock([request]), 2)
    square = bench.request(1, 1024, 1024)
    bench.time_s("diffusers regional compile: 1 x 1024", lambda: bench.draw_stock([square]), 2)
    bench.time_s(
        "diffusers regional compile: 8 x 512",
        lambda: bench.draw_stock(bench.requests([(512, 512)] * 8)),
        2,
    )


PARTS: dict[str, Callable[[Bench], None]] = {
    "linears": measure_linears,
    "parity": measure_parity,
    "forward": measure_forward,
    "loop": measure_loop,
    "small": measure_small,
    "join": measure_join,
    "stock": measure_stock,
    "compiled": measure_compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--kernels", default="modules", choices=["modules", "fused"])
    parser.add_argument("--precision", default="bfloat16", choices=list(Precision))
    parser.add_argument("--step-units", type=float, default=BatchingLimits().step_units)
    parser.add_argument("--attention", default=AUTO, choices=(AUTO, *ATTENTION_NAMES))
    options = parser.parse_args()
    device = "CPU" if options.tiny else torch.cuda.get_device_name()
    say(f"torch {torch.__version__} on {device}")
    bench = Bench(options)
    for name in options.parts.split(","):
        say("==", name)
        try:
            with torch.no_grad():
                PARTS[name](bench)
        except Exception:  # noqa: BLE001
            # A part that fails must not cost the others their time on the device.
            traceback.print_exc()
    bench.loop.close(timeout_s=10)


if __name__ == "__main__":
    main()
