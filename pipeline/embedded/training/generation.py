"""Draw many prompts at once with a model folder, for evaluation during training."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Model

from pipeline.embedded.scenes.rendering import to_pixels
from pipeline.embedded.training.batched import SEQUENCE_MULTIPLE, BatchedTransformer
from pipeline.embedded.training.models import drop_unread_layer
from pipeline.embedded.training.tokenizer import tokenize_prompt
from pipeline.embedded.training.vae import decode
from pipeline.latents import draw_noise
from pipeline.request import ImageSize
from pipeline.schedule import build_schedule


@dataclass(frozen=True)
class BatchGenerator:
    """Draws prompts of one size in batches, in float32."""

    tokenizer: PreTrainedTokenizerFast
    text_encoder: Qwen3Model
    predict: BatchedTransformer
    vae: AutoencoderKL
    device: torch.device

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        size: ImageSize,
        *,
        num_inference_steps: int = 8,
        max_batch: int = 128,
    ) -> list[NDArray[np.uint8]]:
        """Return [H, W, 3] pixels of each prompt; a seed gives the noise that the service draws."""
        tokens = [tokenize_prompt(self.tokenizer, prompt) for prompt in prompts]
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, ids in enumerate(tokens):
            by_length[len(ids) + -len(ids) % SEQUENCE_MULTIPLE].append(place)
        pictures: dict[int, NDArray[np.uint8]] = {}
        for length, places in by_length.items():
            for start in range(0, len(places), max_batch):
                batch = places[start : start + max_batch]
                noise = torch.cat([draw_noise(size, seed=seeds[place]) for place in batch])
                latents = self._denoise(
                    [tokens[place] for place in batch], length, noise, num_inference_steps
                )
                drawn = to_pixels(decode(self.vae, latents))
                pictures.update(zip(batch, drawn, strict=True))
        return [pictures[place] for place in range(len(prompts))]

    def _denoise(
        self, tokens: list[list[int]], length: int, noise: Tensor, num_inference_steps: int
    ) -> Tensor:
        token_ids = torch.zeros(len(tokens), length, dtype=torch.long)
        for row, ids in zip(token_ids, tokens, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        lengths = torch.tensor([len(ids) for ids in tokens], device=self.device)
        prompt_embeds = self.text_encoder(input_ids=token_ids.to(self.device)).last_hidden_state
        schedule = build_schedule(num_inference_steps)
        latents = noise.to(self.device)
        for step in range(num_inference_steps):
            model_time = torch.full((len(tokens),), schedule.model_time(step), device=self.device)
            velocity = -self.predict(latents, model_time, prompt_embeds, lengths)
            latents = schedule.advance(latents, velocity, step)
        return latents


def load_generator(folder: Path, device: torch.device) -> BatchGenerator:
    """Load a model folder in diffusers' layout."""
    transformer = ZImageTransformer2DModel.from_pretrained(
        folder, subfolder="transformer", torch_dtype=torch.float32
    ).to(device)
    text_encoder = Qwen3Model.from_pretrained(
        folder, subfolder="text_encoder", torch_dtype=torch.float32
    )
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    return BatchGenerator(
        PreTrainedTokenizerFast.from_pretrained(folder, subfolder="tokenizer"),
        drop_unread_layer(text_encoder).to(device),
        BatchedTransformer(transformer),
        vae.to(device),
        device,
    )
