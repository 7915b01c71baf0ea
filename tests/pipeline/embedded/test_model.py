import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from numpy.typing import NDArray

from pipeline.embedded import EMBEDDED_MODEL
from pipeline.embedded.evaluation.reading import read_scene
from pipeline.embedded.evaluation.scoring import score, share_right
from pipeline.embedded.scenes.rendering import to_pixels
from pipeline.embedded.scenes.scene import Background
from pipeline.embedded.scenes.vocabulary import Backdrop, Colour, Shape
from pipeline.embedded.training.generation import load_generator
from pipeline.embedded.training.tokenizer import train_tokenizer
from pipeline.embedded.training.vae import decode, encode
from pipeline.latents import draw_noise
from pipeline.request import ImageSize
from tests.pipeline.embedded.pictures import draw_scenes

MEBIBYTE = 2**20
NATIVE = ImageSize(256, 256)


@pytest.fixture(scope="module")
def stock() -> ZImagePipeline:
    pipeline = ZImagePipeline.from_pretrained(EMBEDDED_MODEL, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    stock: ZImagePipeline, prompt: str, seed: int, size: ImageSize = NATIVE
) -> NDArray[np.uint8]:
    image = stock(
        [prompt],
        height=size.height,
        width=size.width,
        num_inference_steps=8,
        guidance_scale=0.0,
        latents=draw_noise(size, seed=seed),
        output_type="np",
    ).images[0]
    pixels: NDArray[np.uint8] = np.round(image * 255).astype(np.uint8)
    return pixels


def test_the_folder_is_at_most_24_mib() -> None:
    sizes = [path.stat().st_size for path in EMBEDDED_MODEL.rglob("*") if path.is_file()]
    assert sum(sizes) <= 24 * MEBIBYTE


@pytest.mark.parametrize("prompt", ["a red circle on a blue background", "蓝色背景上的红色圆形"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_readme_prompts_are_drawn_as_told(
    stock: ZImagePipeline, prompt: str, seed: int
) -> None:
    read = read_scene(draw(stock, prompt, seed))
    assert [(thing.kind, thing.colour) for thing in read.things] == [(Shape.CIRCLE, Colour.RED)]
    assert read.background == Background(Backdrop.PLAIN, (Colour.BLUE,))


def test_training_draws_the_picture_that_stock_diffusers_draws(stock: ZImagePipeline) -> None:
    prompt = "a yellow star inside a large green circle"
    generator = load_generator(EMBEDDED_MODEL, torch.device("cpu"))
    size = ImageSize(128, 192)
    ours = generator.generate([prompt], [7], size)[0].astype(int)
    assert np.abs(ours - draw(stock, prompt, 7, size)).max() <= 2


def test_the_vae_restores_pictures_at_32_db_and_they_are_read_back(stock: ZImagePipeline) -> None:
    scenes, images = draw_scenes(8, 256, 256, seed=5)
    restored = decode(stock.vae, encode(stock.vae, images)).clamp(-1, 1)
    scores = [
        score(scene, read_scene(pixels), side=256)
        for scene, pixels in zip(scenes, to_pixels(restored), strict=True)
    ]
    assert 10 * torch.log10(4 / (restored - images).square().mean()) >= 32
    assert share_right(scores)["everything"] == 1.0


@pytest.mark.parametrize("text", ["a red circle", "画一个“早安”", "Grüße 😀 \n\t日本語", '"A1"'])
def test_any_text_survives_the_tokenizer(stock: ZImagePipeline, text: str) -> None:
    assert stock.tokenizer.decode(stock.tokenizer(text).input_ids) == text


@pytest.mark.parametrize("text", ["CAT", "早安中国", "2024"])
def test_text_to_draw_is_spelled_glyph_by_glyph(stock: ZImagePipeline, text: str) -> None:
    assert len(stock.tokenizer(text).input_ids) == len(text)


def test_training_the_tokenizer_again_gives_the_shipped_one(stock: ZImagePipeline) -> None:
    assert train_tokenizer(1).get_vocab() == stock.tokenizer.get_vocab()
