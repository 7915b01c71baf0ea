"""Eight mixed requests together and one after another, on the CPU, at the embedded model's size.

    python tests/benchmarks/step_loop_cpu.py --threads 2

Prints a line a mix: milliseconds together, through the same loop one after another, and through
diffusers' own pipeline one after another.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from pipeline.acceleration.attention import build_attention
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.transformer import PackedTransformer
from pipeline.denoising.work import Outcome
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, DenoiseResult, ImageSize, PromptEncoding

CAPTION_DIM = 256
MIXES = {
    "8 x 128x128": [(128, 128)] * 8,
    "8 x 256x256": [(256, 256)] * 8,
    "8 mixed, 128 to 512": [
        (128, 128),
        (256, 256),
        (512, 512),
        (256, 192),
        (128, 256),
        (384, 384),
        (256, 256),
        (128, 128),
    ],
}


def build_model() -> ZImageTransformer2DModel:
    torch.manual_seed(0)
    return ZImageTransformer2DModel(
        dim=256,
        n_layers=5,
        n_refiner_layers=2,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=CAPTION_DIM,
        axes_dims=[16, 24, 24],
        axes_lens=[1024, 512, 512],
    ).eval()


def build_requests(sizes: Sequence[tuple[int, int]]) -> list[DenoiseRequest]:
    generator = torch.Generator().manual_seed(0)
    return [
        DenoiseRequest(
            id=f"{index}",
            encoding=PromptEncoding(torch.randn(12 + 7 * index, CAPTION_DIM, generator=generator)),
            size=ImageSize(height, width),
            seed=index,
            num_inference_steps=8,
        )
        for index, (height, width) in enumerate(sizes)
    ]


def run_together(loop: StepLoop, requests: Sequence[DenoiseRequest]) -> None:
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    for request in requests:
        loop.submit(request, outcomes.put)
    waiting = len(requests)
    while waiting:
        waiting -= isinstance(outcomes.get(), DenoiseResult)


def run_one_after_another(loop: StepLoop, requests: Sequence[DenoiseRequest]) -> None:
    for request in requests:
        loop.denoise(request)


def build_stock(model: ZImageTransformer2DModel) -> ZImagePipeline:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        norm_num_groups=4,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    pipeline = ZImagePipeline(scheduler, vae, None, None, model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_stock(pipeline: ZImagePipeline, requests: Sequence[DenoiseRequest]) -> None:
    for request in requests:
        pipeline(
            prompt_embeds=[request.encoding.prompt_embeds],
            height=request.size.height,
            width=request.size.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=0.0,
            latents=draw_noise(request.size, seed=request.seed),
            output_type="latent",
        )


def time_ms(runs: Sequence[Callable[[], None]], repeats: int) -> list[float]:
    """Take the median of each run; the runs alternate, so that a busy machine slows all alike."""
    samples: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 1):
        for run, kept in zip(runs, samples, strict=True):
            begun = time.perf_counter()
            run()
            kept.append(1000 * (time.perf_counter() - begun))
    return [statistics.median(kept[1:]) for kept in samples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build_model()
    transformer = PackedTransformer(model, build_attention("sdpa", torch.device("cpu")))
    loop = StepLoop(transformer, num_threads=options.threads)
    stock = build_stock(model)
    print(f"torch {torch.__version__}, {options.threads} threads, float32, 8 steps each")
    print(f"forwards are shared: {transformer.shares_forwards}")
    for name, sizes in MIXES.items():
        requests = build_requests(sizes)
        together, alone, diffusers = time_ms(
            [
                partial(run_together, loop, requests),
                partial(run_one_after_another, loop, requests),
                partial(run_stock, stock, requests),
            ],
            options.repeats,
        )
        print(
            f"{name:20s} together {together:7.0f} ms, alone {alone:7.0f} ms "
            f"({together / alone:.2f}), diffusers alone {diffusers:7.0f} ms "
            f"({together / diffusers:.2f})"
        )
    loop.close()


if __name__ == "__main__":
    main()
