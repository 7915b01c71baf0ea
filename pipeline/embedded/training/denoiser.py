"""Train text encoder and transformer together, by flow matching at the sigmas that are used."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen3Model

from pipeline.embedded.scenes.rendering import render
from pipeline.embedded.training.batched import BatchedTransformer, run_block
from pipeline.embedded.training.batched_encoder import BatchedEncoder, run_layer
from pipeline.embedded.training.feed import NATIVE_PATCHES, PATCH_PIXELS, CaptionedBatch
from pipeline.embedded.training.optimizer import FlatOptimizer, OptimizerSettings
from pipeline.embedded.training.progress import Progress
from pipeline.embedded.training.ranks import Ranks
from pipeline.embedded.training.rates import trapezoid_rate
from pipeline.embedded.training.shelf import EncodedBatch, Shelf
from pipeline.embedded.training.trajectories import Walk, draw_sigmas, noise_pictures
from pipeline.embedded.training.vae import encode

_logger = logging.getLogger(__name__)

_LOG_EVERY: Final = 100
_LOOK_EVERY: Final = 20
"""Steps between two looks at the clock."""

_NATIVE: Final = NATIVE_PATCHES * PATCH_PIXELS


@dataclass(frozen=True)
class DenoiserSettings:
    """How hard, and on what."""

    learning_rate: float = 2e-3
    decay_share: float = 0.5
    average_decay: float = 0.9995
    exact_sigma_share: float = 0.8
    """Of pictures noised to one of the eight sigmas of the schedule; others anywhere between."""
    walk_share: float = 0.5
    """Of pictures that start from what the network itself has drawn so far."""
    walk_from: float = 0.2
    """How far the run has come when walks begin."""
    walk_cap: float = 0.2
    """Error beyond which a picture on a walk weighs less: it shows something else by then."""
    num_held: int = 320
    """Encoded batches that are kept and drawn from."""
    uses: int = 16
    """How often a batch is trained on, each time with other noise."""
    seed: int = 0


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
        self._vae = vae
        self._native_encoder = torch.compile(vae.encoder, dynamic=False) if is_compiled else None
        self._embed = BatchedEncoder(
            text_encoder, torch.compile(run_layer) if is_compiled else run_layer
        )
        self._predict = BatchedTransformer(
            transformer, torch.compile(run_block) if is_compiled else run_block
        )
        self._settings = settings
        self._ranks = ranks
        matrices, others = _split_parameters((text_encoder, transformer))
        optimizer_settings = OptimizerSettings(average_decay=settings.average_decay)
        self.optimizer = FlatOptimizer(matrices, others, optimizer_settings, ranks.average)
        self.step = 0
        self.batches_taken = 0
        self.progress = 0.0

    def run(
        self,
        batches: Iterator[CaptionedBatch],
        progress: Progress,
        must_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train until `progress` says 1, or until `must_stop` on the first process."""
        settings, first_batch = self._settings, self.batches_taken
        shelf = Shelf(
            batches,
            self._encode,
            capacity=settings.num_held,
            uses=settings.uses,
            seed=f"{settings.seed}/shelf/{self.step}",
        )
        log = _Log(self._ranks.device)
        while True:
            if self.step % _LOOK_EVERY == 0:
                self.progress = self._ranks.share(progress(self.step))
                if self._ranks.agree(must_stop()):
                    break
            if self.progress >= 1:
                break
            loss = self._loss(shelf.take())
            torch.autograd.backward(loss)
            rate = trapezoid_rate(self.step, self.progress, decay_share=settings.decay_share)
            norm = self.optimizer.step(settings.learning_rate * rate)
            self.step += 1
            self.batches_taken = first_batch + shelf.taken
            log.add(self.step, self.progress, loss, norm, rate)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, beside the VAE."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "batches_taken": self.batches_taken,
            "progress": self.progress,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.batches_taken = state["batches_taken"]
        self.progress = state["progress"]

    def _encode(self, batch: CaptionedBatch) -> EncodedBatch:
        device = self._ranks.device
        images = render(batch.drawing, batch.shape.height, batch.shape.width, device)
        is_native = batch.shape.height == batch.shape.width == _NATIVE
        return EncodedBatch(
            encode(
                self._vae, images, encoder=self._native_encoder if is_native else None
            ).bfloat16(),
            torch.from_numpy(batch.token_ids).to(device),
            torch.from_numpy(batch.lengths).to(device),
            torch.from_numpy(batch.choices).to(device),
        )

    def _loss(self, batch: EncodedBatch) -> Tensor:
        """Return the error of the velocity towards the picture, from where each picture is."""
        settings, latents = self._settings, batch.latents.float()
        num_walking = int(len(latents) * settings.walk_share)
        if self.progress < settings.walk_from:
            num_walking = 0
        fresh = slice(num_walking, None)
        sigma = draw_sigmas(len(latents) - num_walking, settings.exact_sigma_share, latents.device)
        noisy = noise_pictures(latents[fresh], batch.choices[fresh], sigma)
        walked = latents[:num_walking], batch.choices[:num_walking]
        if num_walking:
            batch.walk = batch.walk or Walk.begin(*walked)
            sigma = torch.cat([batch.walk.sigma, sigma])
            noisy = torch.cat([batch.walk.latents, noisy])
        embeds = self._embed(batch.token_ids)
        dtype = self._predict.transformer.dtype
        predicted = self._predict(noisy.to(dtype), 1 - sigma, embeds, batch.lengths).float()
        target = (latents - noisy) / sigma[:, None, None, None]
        errors = (predicted - target).square().mean(dim=(1, 2, 3))
        if batch.walk is not None:
            batch.walk.advance(predicted[:num_walking].detach(), *walked)
        weights = (settings.walk_cap / errors[:num_walking].detach()).clamp(max=1.0)
        return torch.cat([weights * errors[:num_walking], errors[fresh]]).mean()


class _Log:
    """Says every hundred steps how it goes."""

    def __init__(self, device: torch.device) -> None:
        self._started = time.monotonic()
        self._losses = torch.zeros((), device=device)

    def add(self, step: int, progress: float, loss: Tensor, norm: Tensor, rate: float) -> None:
        self._losses += loss.detach()
        if step % _LOG_EVERY:
            return
        _logger.info(
            "step %d, %.3f of the run, loss %.4f gradient %.3f rate %.2f after %.0f s",
            step,
            progress,
            self._losses.item() / _LOG_EVERY,
            norm.item(),
            rate,
            time.monotonic() - self._started,
        )
        self._losses.zero_()


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
