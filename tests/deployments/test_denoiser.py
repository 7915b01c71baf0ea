"""A step loop behind a handle."""

import asyncio
from functools import partial
from pathlib import Path

from deployments.config import AppConfig
from deployments.denoiser import DenoiserDeployment
from deployments.loading import StageLoader
from deployments.pools import to_terms
from deployments.served_model import describe_model
from pipeline.request import DenoiseRequest, ImageSize
from pipeline.weights import resolve_weights


async def test_a_picture_that_is_asked_for_again_does_not_wait_for_its_first_call_to_be_let_go(
    tiny_model: Path,
) -> None:
    load = StageLoader(resolve_weights(str(tiny_model)))
    [pool] = AppConfig().pools
    denoiser = DenoiserDeployment(
        partial(load.denoiser, pool),
        lambda: "local",
        to_terms(pool, describe_model(load.weights, served_name=None)),
    )
    encoding = load.text_encoder(AppConfig().text_encoder).encode("x")
    request = DenoiseRequest("job-0", encoding, ImageSize(64, 64), 1, num_inference_steps=20)

    first, again = await asyncio.gather(
        denoiser.denoise_silently(request), denoiser.denoise_silently(request)
    )

    assert first.result.latents.equal(again.result.latents)
