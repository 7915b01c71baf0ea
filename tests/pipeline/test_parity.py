"""The stages together draw what diffusers' own pipeline draws on the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline

from pipeline.denoising.engine import StepLoop
from pipeline.denoising.loading import load_step_loop
from pipeline.denoising.options import StepLoopOptions
from pipeline.device import choose_device
from pipeline.latents import draw_noise
from pipeline.networks import load_vae
from pipeline.request import DenoiseRequest, ImageSize
from pipeline.text_encoder import QwenTextEncoder, load_text_encoder
from pipeline.vae_decoder import FullImageVaeDecoder
from pipeline.weights import Weights, resolve_weights

CPU = choose_device("cpu")
SIZES = [ImageSize(64, 64), ImageSize(128, 128), ImageSize(96, 176)]
PROMPTS = ["a red circle", "a small blue star left of a large green ring on a striped background"]


@pytest.fixture(scope="module")
def weights(tiny_model: Path) -> Weights:
    return resolve_weights(str(tiny_model))


@pytest.fixture(scope="module")
def stock(tiny_model: Path) -> Any:
    pipeline = ZImagePipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def text_encoder(weights: Weights) -> QwenTextEncoder:
    return load_text_encoder(weights, CPU)


@pytest.fixture(scope="module")
def denoiser(weights: Weights) -> StepLoop:
    return load_step_loop(weights, CPU, StepLoopOptions())


@pytest.fixture(scope="module")
def vae_decoder(weights: Weights) -> FullImageVaeDecoder:
    return FullImageVaeDecoder(load_vae(weights, device=CPU.device, dtype=CPU.dtype))


def _stock(pipeline: Any, prompt: str, size: ImageSize, *, steps: int, output_type: str) -> Any:
    return pipeline(
        prompt,
        height=size.height,
        width=size.width,
        latents=draw_noise(size, seed=7),
        num_inference_steps=steps,
        guidance_scale=0.0,
        output_type=output_type,
    ).images


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_embeds_equal_those_of_diffusers(
    stock: Any, text_encoder: QwenTextEncoder, prompt: str
) -> None:
    expected = stock.encode_prompt([prompt], do_classifier_free_guidance=False)[0][0]

    torch.testing.assert_close(
        text_encoder.encode(prompt).prompt_embeds, expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_latents_equal_those_of_diffusers(
    stock: Any,
    text_encoder: QwenTextEncoder,
    denoiser: StepLoop,
    prompt: str,
    size: ImageSize,
) -> None:
    request = DenoiseRequest("r", text_encoder.encode(prompt), size, seed=7, num_inference_steps=8)

    latents = denoiser.denoise(request).latents

    expected = _stock(stock, prompt, size, steps=8, output_type="latent")
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)


def test_pixels_equal_those_of_diffusers(stock: Any, vae_decoder: FullImageVaeDecoder) -> None:
    latents = _stock(stock, PROMPTS[0], SIZES[2], steps=2, output_type="latent")

    pixels = vae_decoder.decode(latents)

    unit = _stock(stock, PROMPTS[0], SIZES[2], steps=2, output_type="np")[0]
    expected = torch.from_numpy((unit * 255).round()).to(torch.uint8)
    assert torch.equal(pixels, expected)
