"""Runs tiles through the modules of a stock `ZImageTransformer2DModel`, one at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.denoising.tiled import TileItem
from pipeline.request import PromptEncoding

PATCH_KEY = "2-1"


class TransformerTileExecutor:
    """The stock forward, but for where the image's positions begin; counts what it runs."""

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self._captions: dict[str, tuple[Tensor, Tensor]] = {}
        self.num_captions = 0
        self.num_forwards = 0

    @property
    def open_captions(self) -> set[str]:
        return set(self._captions)

    @torch.inference_mode()
    def prepare_caption(self, caption_key: str, encoding: PromptEncoding) -> None:
        model = self._transformer
        embeds = encoding.prompt_embeds.to(model.device, model.dtype)
        padded = len(embeds) + -len(embeds) % 32
        rows, positions, is_pad, *_ = model._pad_with_ids(
            embeds, (padded, 1, 1), (1, 0, 0), model.device
        )
        hidden, freqs, mask, *_ = model._prepare_sequence(
            [model.cap_embedder(rows)], [positions], [is_pad], model.cap_pad_token
        )
        for layer in model.context_refiner:
            hidden = layer(hidden, mask, freqs)
        self._captions[caption_key] = (hidden, freqs)
        self.num_captions += 1

    @torch.inference_mode()
    def predict_velocities(self, items: Sequence[TileItem]) -> list[Tensor]:
        return [self._predict(item) for item in items]

    def release_caption(self, caption_key: str) -> None:
        self._captions.pop(caption_key, None)

    def _predict(self, item: TileItem) -> Tensor:
        model = self._transformer
        caption, caption_freqs = self._captions[item.caption_key]
        latents = item.latents.to(model.device, model.dtype)[:, None]
        time = torch.tensor([item.model_time], device=model.device)
        modulation = model.t_embedder(time * model.t_scale).type_as(latents)
        patches, shape, grid = model._patchify_image(latents, 2, 1)
        start = (caption.shape[1] + 1, *item.position_origin)
        rows, positions, is_pad, *_ = model._pad_with_ids(patches, grid, start, model.device)
        hidden, freqs, *_ = model._prepare_sequence(
            [model.all_x_embedder[PATCH_KEY](rows)], [positions], [is_pad], model.x_pad_token
        )
        for layer in model.noise_refiner:
            hidden = layer(hidden, None, freqs, modulation)
        hidden = torch.cat([hidden, caption], dim=1)
        freqs = torch.cat([freqs, caption_freqs], dim=1)
        for layer in model.layers:
            hidden = layer(hidden, None, freqs, modulation)
        hidden = model.all_final_layer[PATCH_KEY](hidden, c=modulation)
        velocity: Tensor
        [velocity] = model.unpatchify(list(hidden), [shape], 2, 1)
        self.num_forwards += 1
        return -velocity[:, 0].float().cpu()
