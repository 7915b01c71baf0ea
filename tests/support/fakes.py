"""Stages that a test can hold at a step."""

import asyncio
from collections.abc import AsyncGenerator

import torch
from torch import Tensor

from deployments.decoding import decode_to_file
from deployments.stages import Denoised, Encoded, FileOrder, ImageFile
from pipeline.errors import PipelineError
from pipeline.request import DenoiseRequest, DenoiseResult, ImageSize, PromptEncoding, StepEvent


class GreyVaeDecoder:
    """Decodes any latents to grey."""

    def decode(self, latents: Tensor) -> Tensor:
        height, width = latents.shape[2] * 8, latents.shape[3] * 8
        return torch.full((height, width, 3), 128, dtype=torch.uint8)

    def fingerprint(self, size: ImageSize) -> str:
        return "grey"


class SteppedStages:
    """Takes a step whenever the test lets it; every step has a preview until they are all made.

    Satisfies `deployments.stages.Stages`.
    """

    def __init__(self, *, fails_after: int | None = None) -> None:
        self._fails_after = fails_after
        self._allowed = asyncio.Semaphore(0)
        self.steps_taken = 0
        self.is_entered = asyncio.Event()
        self.is_closed = asyncio.Event()

    def allow(self, num_steps: int) -> None:
        """Let so many more steps happen."""
        for _ in range(num_steps):
            self._allowed.release()

    async def encode(self, prompt: str) -> Encoded:
        return Encoded(PromptEncoding(torch.zeros(len(prompt), 8)), 0.0)

    async def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        num_steps = request.num_inference_steps
        self.is_entered.set()
        try:
            for step in range(1, num_steps + 1):
                if self._fails_after == step - 1:
                    raise PipelineError("the transformer broke")
                await self._allowed.acquire()
                self.steps_taken = step
                preview = draw_preview(request.size, step) if step <= request.num_previews else None
                yield StepEvent(step, num_steps, 1 - step / num_steps, preview)
            latents = torch.zeros(1, 16, request.size.latent_height, request.size.latent_width)
            yield Denoised(DenoiseResult(latents, 0.0, 0.1), "fake/fingerprint", "fake")
        finally:
            self.is_closed.set()

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        return decode_to_file(GreyVaeDecoder(), latents, order)


def draw_preview(size: ImageSize, step: int) -> Tensor:
    """Draw [3, h, w] uint8 pixels of one level, ten a step."""
    return torch.full((3, size.latent_height, size.latent_width), 10 * step, dtype=torch.uint8)
