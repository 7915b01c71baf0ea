"""One picture after another through the stock transformer."""

import time
from collections.abc import Callable

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from pipeline.device import ComputeDevice
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, DenoiseResult, StepEvent
from pipeline.schedule import build_schedule
from pipeline.weights import Weights, load_transformer


class SequentialDenoiser:
    """Runs the whole schedule of one request before the next."""

    def __init__(self, transformer: ZImageTransformer2DModel, *, shift: float) -> None:
        self._transformer = transformer
        self._shift = shift

    @torch.inference_mode()
    def denoise(
        self, request: DenoiseRequest, on_step: Callable[[StepEvent], None] | None = None
    ) -> DenoiseResult:
        """Draw one image's latents."""
        started = time.monotonic()
        schedule = build_schedule(request.num_inference_steps, shift=self._shift)
        latents = draw_noise(request.size, seed=request.seed).to(self._transformer.device)
        prompt_embeds = request.encoding.prompt_embeds.to(
            self._transformer.device, self._transformer.dtype
        )
        for step in range(schedule.num_inference_steps):
            velocity = self._predict_velocity(latents, schedule.model_time(step), prompt_embeds)
            latents = schedule.advance(latents, velocity, step)
            if on_step is not None:
                on_step(StepEvent(step + 1, request.num_inference_steps, schedule.sigmas[step + 1]))
        with torch.inference_mode(False):
            return DenoiseResult(latents.cpu().clone(), 0.0, time.monotonic() - started)

    def _predict_velocity(
        self, latents: Tensor, model_time: float, prompt_embeds: Tensor
    ) -> Tensor:
        image = latents.to(self._transformer.dtype)[0].unsqueeze(1)
        time_model = torch.tensor([model_time], dtype=torch.float32, device=latents.device)
        output: Tensor = self._transformer([image], time_model, [prompt_embeds], return_dict=False)[
            0
        ][0]
        return -output.float().squeeze(1).unsqueeze(0)


def load_denoiser(weights: Weights, compute: ComputeDevice) -> SequentialDenoiser:
    """Read the transformer."""
    transformer = load_transformer(weights, device=compute.device, dtype=compute.dtype)
    return SequentialDenoiser(transformer, shift=weights.shift)
