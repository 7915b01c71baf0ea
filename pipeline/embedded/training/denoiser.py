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
from pipeline.embedded.training.batched_encoder import BatchedEncoder, run_layer
from pipeline.embedded.training.feed import (
    NATIVE_PATCHES,
    PATCH_LATENTS,
    PATCH_PIXELS,
    CaptionedBatch,
)
from pipeline.embedded.training.optimizer import FlatOptimizer, OptimizerSettings
from pipeline.embedded.training.progress import Progress
from pipeline.embedded.training.ranks import Ranks
from pipeline.embedded.training.rates import trapezoid_rate
from pipeline.embedded.training.shelf import EncodedBatch, Shelf
from pipeline.embedded.training.trajectories import (
    Walk,
    draw_restart_sigmas,
    draw_sigmas,
    noise_pictures,
    restart_pictures,
)
from pipeline.embedded.training.vae import encode

_logger = logging.getLogger(__name__)

_LOG_EVERY: Final = 100
_LOOK_EVERY: Final = 20
"""Steps between two looks at the clock."""

_NATIVE: Final = NATIVE_PATCHES * PATCH_PIXELS

_WHOLE_SHARE: Final = 0.5
"""Of steps whose restarted pictures are seen whole, where they are larger than a tile."""

_WINDOW_STRIDE: Final = 4
"""Latent pixels between places of tiles."""


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
    restart_share: float = 0.15
    """Of pictures that go on from a smaller drawing of theirs, half of the larger ones in tiles."""
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
        self._rng = random.Random(f"{settings.seed}/windows")

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
        latents = encode(
            self._vae, images, encoder=self._native_encoder if is_native else None
        ).bfloat16()
        coarse = encode(self._vae, F.avg_pool2d(images, 2)).float()
        return EncodedBatch(
            latents,
            F.interpolate(coarse, latents.shape[2:], mode="bicubic").bfloat16(),
            torch.from_numpy(batch.token_ids).to(device),
            torch.from_numpy(batch.lengths).to(device),
            torch.from_numpy(batch.choices).to(device),
        )

    def _loss(self, batch: EncodedBatch) -> Tensor:
        """Return the error of the velocity towards the picture, from where each picture is."""
        settings, latents = self._settings, batch.latents.float()
        num_restarted = int(len(latents) * settings.restart_share)
        num_whole = len(latents) - num_restarted
        num_walking = int(len(latents) * settings.walk_share)
        if self.progress < settings.walk_from:
            num_walking = 0
        fresh = slice(num_walking, num_whole)
        sigma = draw_sigmas(num_whole - num_walking, settings.exact_sigma_share, latents.device)
        noisy = noise_pictures(latents[fresh], batch.choices[fresh], sigma)
        walked = latents[:num_walking], batch.choices[:num_walking]
        if num_walking:
            batch.walk = batch.walk or Walk.begin(*walked)
            sigma = torch.cat([batch.walk.sigma, sigma])
            noisy = torch.cat([batch.walk.latents, noisy])
        embeds = self._embed(batch.token_ids)
        predicted, errors = self._compare(
            latents[:num_whole], noisy, sigma, embeds[:num_whole], batch.lengths[:num_whole]
        )
        if batch.walk is not None:
            batch.walk.advance(predicted[:num_walking].detach(), *walked)
        weights = (settings.walk_cap / errors[:num_walking].detach()).clamp(max=1.0)
        parts = [weights * errors[:num_walking], errors[num_walking:]]
        if num_restarted:
            parts.append(self._restart(batch, embeds, slice(num_whole, None)))
        return torch.cat(parts).mean()

    def _restart(self, batch: EncodedBatch, embeds: Tensor, members: slice) -> Tensor:
        """Return the errors of pictures that go on from a smaller drawing, whole or in a tile."""
        latents, coarse = batch.latents[members].float(), batch.coarse[members].float()
        top, left, height, width = self._draw_window(*latents.shape[2:])
        rows, columns = slice(top, top + height), slice(left, left + width)
        sigma = draw_restart_sigmas(len(latents), latents.device)
        noisy = restart_pictures(latents, coarse, sigma)
        window = (..., rows, columns)
        origin = (top // PATCH_LATENTS, left // PATCH_LATENTS)
        _, errors = self._compare(
            latents[window], noisy[window], sigma, embeds[members], batch.lengths[members], origin
        )
        return errors

    def _draw_window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Choose row, column, height and width of what is seen, in latent pixels."""
        most = NATIVE_PATCHES * PATCH_LATENTS
        if self._rng.random() < _WHOLE_SHARE:
            return 0, 0, height, width
        sides = min(height, most), min(width, most)
        top, left = (
            self._rng.randrange(0, whole - side + 1, _WINDOW_STRIDE)
            for whole, side in zip((height, width), sides, strict=True)
        )
        return top, left, *sides

    def _compare(
        self,
        latents: Tensor,
        noisy: Tensor,
        sigma: Tensor,
        embeds: Tensor,
        lengths: Tensor,
        origin: tuple[int, int] = (0, 0),
    ) -> tuple[Tensor, Tensor]:
        """Return the predicted velocity, and each picture's error against the true one, [B]."""
        dtype = self._predict.transformer.dtype
        predicted = self._predict(noisy.to(dtype), 1 - sigma, embeds, lengths, origin).float()
        target = (latents - noisy) / sigma[:, None, None, None]
        return predicted, (predicted - target).square().mean(dim=(1, 2, 3))


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
