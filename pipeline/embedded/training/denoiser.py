"""Train text encoder and transformer together, by flow matching at the sigmas that are used."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen3Model

from pipeline.embedded.scenes.rendering import render
from pipeline.embedded.training.batched import BatchedTransformer, run_block
from pipeline.embedded.training.feed import CaptionedBatch
from pipeline.embedded.training.optimizer import FlatOptimizer, OptimizerSettings
from pipeline.embedded.training.ranks import Ranks
from pipeline.embedded.training.rates import trapezoid_rate
from pipeline.embedded.training.vae import encode
from pipeline.schedule import Z_IMAGE_SHIFT, build_schedule

_logger = logging.getLogger(__name__)

_NUM_STEPS: Final = 8
_LOG_EVERY: Final = 50


@dataclass(frozen=True)
class DenoiserSettings:
    """How long and how hard."""

    steps: int
    learning_rate: float = 3e-3
    decay_share: float = 0.5
    exact_sigma_share: float = 0.8
    """Of pictures noised to one of the eight sigmas of the schedule; others anywhere between."""
    num_held: int = 48
    """Encoded batches that are kept and drawn from."""
    uses: int = 12
    """How often a batch is trained on, each time with other noise."""
    seed: int = 0


@dataclass(frozen=True)
class _EncodedBatch:
    latents: Tensor
    token_ids: Tensor
    lengths: Tensor


class DenoiserTraining:
    """A run that can stop after any step and go on from its state."""

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: Qwen3Model,
        transformer: ZImageTransformer2DModel,
        settings: DenoiserSettings,
        ranks: Ranks,
        *,
        is_compiled: bool,
    ) -> None:
        block = torch.compile(run_block) if is_compiled else run_block
        self._vae = vae
        self._text_encoder = text_encoder
        self._predict = BatchedTransformer(transformer, block)
        self._settings = settings
        self._ranks = ranks
        modules = (text_encoder, transformer)
        matrices, others = _split_parameters(modules)
        self.optimizer = FlatOptimizer(matrices, others, OptimizerSettings(), ranks.average)
        self.step = 0
        self.batches_taken = 0

    def run(
        self, batches: Iterator[CaptionedBatch], must_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Train until the last step, or until `must_stop` on the first process."""
        settings = self._settings
        first_batch = self.batches_taken
        shelf = _Shelf(batches, self._encode, settings, first_step=self.step)
        started, losses = time.monotonic(), torch.zeros((), device=self._ranks.device)
        while self.step < settings.steps:
            if self.step % 20 == 0 and self._ranks.agree(must_stop()):
                break
            loss = self._loss(shelf.take())
            torch.autograd.backward(loss)
            rate = trapezoid_rate(self.step, settings.steps, decay_share=settings.decay_share)
            norm = self.optimizer.step(settings.learning_rate * rate)
            self.step += 1
            self.batches_taken = first_batch + shelf.taken
            losses += loss.detach()
            if self.step % _LOG_EVERY == 0:
                _logger.info(
                    "step %d of %d loss %.4f gradient %.3f rate %.2f after %.0f s",
                    self.step,
                    settings.steps,
                    losses.item() / _LOG_EVERY,
                    norm.item(),
                    rate,
                    time.monotonic() - started,
                )
                losses.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, beside the VAE."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "batches_taken": self.batches_taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.batches_taken = state["batches_taken"]

    def _encode(self, batch: CaptionedBatch) -> _EncodedBatch:
        device = self._ranks.device
        images = render(batch.drawing, batch.shape.height, batch.shape.width, device)
        return _EncodedBatch(
            encode(self._vae, images),
            torch.from_numpy(batch.token_ids).to(device),
            torch.from_numpy(batch.lengths).to(device),
        )

    def _loss(self, batch: _EncodedBatch) -> Tensor:
        latents = batch.latents
        sigma = draw_sigmas(len(latents), self._settings.exact_sigma_share, latents.device)
        noise = torch.randn_like(latents)
        mix = sigma[:, None, None, None]
        noisy = ((1 - mix) * latents + mix * noise).to(self._predict.transformer.dtype)
        prompt_embeds = self._text_encoder(input_ids=batch.token_ids).last_hidden_state
        predicted = self._predict(noisy, 1 - sigma, prompt_embeds, batch.lengths)
        return F.mse_loss(predicted.float(), latents - noise)


class _Shelf:
    """Holds encoded batches; hands each out a few times, in an order all processes share."""

    def __init__(
        self,
        batches: Iterator[CaptionedBatch],
        encode_batch: Callable[[CaptionedBatch], _EncodedBatch],
        settings: DenoiserSettings,
        first_step: int,
    ) -> None:
        self._batches = batches
        self._encode = encode_batch
        self._settings = settings
        self._rng = random.Random(f"{settings.seed}/shelf/{first_step}")
        self._held: list[tuple[_EncodedBatch, int]] = []
        self.taken = 0

    def take(self) -> _EncodedBatch:
        """Return a batch. The shelf fills up over the first steps, not before them."""
        is_filling = len(self._held) < self._settings.num_held and self._rng.random() < 0.5
        if is_filling or not self._held:
            self._held.append((self._fetch(), 0))
            place = len(self._held) - 1
        else:
            place = self._rng.randrange(len(self._held))
        batch, uses = self._held[place]
        if uses + 1 >= self._settings.uses:
            self._held[place] = (self._fetch(), 0)
        else:
            self._held[place] = (batch, uses + 1)
        return batch

    def _fetch(self) -> _EncodedBatch:
        self.taken += 1
        return self._encode(next(self._batches))


def draw_sigmas(count: int, exact_share: float, device: torch.device) -> Tensor:
    """Draw [count] sigmas: those of the eight steps, or shifted as they are."""
    schedule = torch.tensor(build_schedule(_NUM_STEPS).sigmas[:-1], device=device)
    exact = schedule[torch.randint(_NUM_STEPS, (count,), device=device)]
    linear = torch.rand(count, device=device)
    between = Z_IMAGE_SHIFT * linear / (1 + (Z_IMAGE_SHIFT - 1) * linear)
    return torch.where(torch.rand(count, device=device) < exact_share, exact, between)


def _split_parameters(
    modules: tuple[nn.Module, ...],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Separate the matrices of attention and feed-forward from everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            is_inside = "layers." in name or "refiner." in name
            is_matrix = is_inside and parameter.ndim == 2 and "adaLN" not in name
            (matrices if is_matrix else others).append(parameter)
    return matrices, others
