"""Train the embedded model: tokenizer, then VAE, then text encoder and transformer together.

`python -m pipeline.embedded.training.train --out FOLDER` on one GPU, or under `torchrun` on
several; `FOLDER/model` is the result. A run that was stopped goes on where it was.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from transformers import PreTrainedTokenizerFast, Qwen3Model

from pipeline.embedded.scenes.rendering import render
from pipeline.embedded.training.denoiser import DenoiserSettings, DenoiserTraining
from pipeline.embedded.training.export import export_model
from pipeline.embedded.training.feed import CaptionedBatchMaker, Workers, make_drawing
from pipeline.embedded.training.models import (
    build_text_encoder,
    build_transformer,
    build_vae,
    drop_unread_layer,
)
from pipeline.embedded.training.progress import ByClock, Progress, by_steps, to_the_end
from pipeline.embedded.training.ranks import Ranks, join
from pipeline.embedded.training.tokenizer import train_tokenizer
from pipeline.embedded.training.vae import VaeSettings, measure_psnr, train_vae

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What the command line chooses."""

    out: Path
    start_from: Path | None
    seed: int
    vae_steps: int
    vae_pixels: int
    steps: int
    minutes_in_all: float | None
    tokens: int
    uses: int
    learning_rate: float
    workers: int
    minutes: float
    is_last: bool
    is_compiled: bool


def main() -> None:
    """Train as far as the time allows, and export what there is."""
    plan = _parse()
    deadline = time.monotonic() + plan.minutes * 60
    with Workers(plan.workers) as workers:
        _train(plan, workers, deadline)


def _train(plan: Plan, workers: Workers, deadline: float) -> None:
    ranks = join()
    level = logging.INFO if ranks.is_first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    torch.manual_seed(plan.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    plan.out.mkdir(parents=True, exist_ok=True)
    tokenizer = _prepare_tokenizer(plan, ranks)
    vae = _prepare_vae(plan, ranks, workers)
    _train_denoiser(plan, ranks, workers, tokenizer, vae, deadline)
    if ranks.count > 1:
        torch.distributed.destroy_process_group()


def _parse() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start-from", type=Path, help="a model folder to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=2200)
    parser.add_argument("--vae-pixels", type=int, default=2**21, help="pixels of a VAE batch")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument(
        "--minutes-in-all", type=float, help="of all commands together; replaces --steps"
    )
    parser.add_argument("--tokens", type=int, default=512 * 288, help="tokens of a batch")
    parser.add_argument("--uses", type=int, default=16, help="steps that share a batch's latents")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=8, help="processes that make batches")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after")
    parser.add_argument(
        "--last",
        action="store_true",
        dest="is_last",
        help="let the rate reach zero when --minutes are over",
    )
    parser.add_argument("--compile", action="store_true", dest="is_compiled")
    return Plan(**vars(parser.parse_args()))


def _prepare_tokenizer(plan: Plan, ranks: Ranks) -> PreTrainedTokenizerFast:
    """Load the tokenizer or learn it, in every process alike, and save it for the workers."""
    if plan.start_from is None:
        tokenizer = train_tokenizer(plan.seed)
    else:
        folder = plan.start_from / "tokenizer"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if ranks.is_first:
        tokenizer.save_pretrained(plan.out / "tokenizer")
    ranks.agree(True)
    return tokenizer


def _prepare_vae(plan: Plan, ranks: Ranks, workers: Workers) -> AutoencoderKL:
    """Train the VAE, or load it if an earlier run has."""
    dtype = torch.float32 if ranks.device.type == "cpu" else torch.bfloat16
    folder = plan.out / "vae" if plan.start_from is None else plan.start_from / "vae"
    if ranks.agree(folder.exists()):
        return AutoencoderKL.from_pretrained(folder, torch_dtype=dtype).to(ranks.device)
    vae = build_vae().to(ranks.device, dtype, memory_format=torch.channels_last)
    make = partial(make_drawing, rank=ranks.rank, seed=plan.seed, max_pixels=plan.vae_pixels)
    train_vae(vae, workers.run(make), VaeSettings(plan.vae_steps), ranks)
    shape, drawing = make_drawing(-1, 0, plan.seed, plan.vae_pixels)
    psnr = measure_psnr(vae, render(drawing, shape.height, shape.width, ranks.device))
    _logger.info("vae: %.2f dB at %dx%d", psnr, shape.width, shape.height)
    if ranks.is_first:
        vae.save_pretrained(folder)
    ranks.agree(True)
    return vae


def _prepare_networks(plan: Plan) -> tuple[Qwen3Model, ZImageTransformer2DModel]:
    if plan.start_from is None:
        return build_text_encoder(), build_transformer()
    return (
        Qwen3Model.from_pretrained(plan.start_from, subfolder="text_encoder"),
        ZImageTransformer2DModel.from_pretrained(plan.start_from, subfolder="transformer"),
    )


def _train_denoiser(
    plan: Plan,
    ranks: Ranks,
    workers: Workers,
    tokenizer: PreTrainedTokenizerFast,
    vae: AutoencoderKL,
    deadline: float,
) -> None:
    torch.manual_seed(plan.seed)
    text_encoder, transformer = _prepare_networks(plan)
    text_encoder = drop_unread_layer(text_encoder).to(ranks.device, vae.dtype)
    transformer = transformer.to(ranks.device, vae.dtype)
    vae.requires_grad_(False)
    settings = DenoiserSettings(plan.learning_rate, uses=plan.uses, seed=plan.seed)
    training = DenoiserTraining(
        vae, text_encoder, transformer, settings, ranks, is_compiled=plan.is_compiled
    )
    checkpoint = plan.out / "checkpoint.pt"
    if ranks.agree(checkpoint.exists()):
        training.load_state_dict(torch.load(checkpoint, map_location=ranks.device))
    torch.manual_seed((plan.seed * 1_000_003 + training.step) * 64 + ranks.rank)
    maker = CaptionedBatchMaker(plan.out / "tokenizer", ranks.rank, plan.seed)
    make = partial(maker.make, max_tokens=plan.tokens)
    training.run(
        workers.run(make, first=training.batches_taken),
        _choose_progress(plan, training.progress, deadline),
        lambda: time.monotonic() > deadline,
    )
    if ranks.is_first:
        _save(training.state_dict(), checkpoint)
        training.optimizer.publish_average()
        export_model(plan.out / "model", vae, text_encoder, transformer, tokenizer)
        _logger.info("stopped after step %d, %.3f of the run", training.step, training.progress)


def _choose_progress(plan: Plan, begun: float, deadline: float) -> Progress:
    if plan.is_last:
        return to_the_end(begun, deadline - time.monotonic())
    if plan.minutes_in_all is not None:
        return ByClock(begun, plan.minutes_in_all * 60)
    return by_steps(plan.steps)


def _save(state: dict[str, Any], checkpoint: Path) -> None:
    """Write a checkpoint whole or not at all."""
    unfinished = checkpoint.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(checkpoint)


if __name__ == "__main__":
    main()
