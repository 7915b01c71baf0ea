"""What a prompt needs is computed once a request, whatever the number of tiles."""

from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch
from local_service import build_api_over, local_config

from deployments.config import PoolConfig, TextEncoderConfig, TilingConfig
from deployments.loading import StageLoader
from deployments.local_stages import load_local_stages
from deployments.served_model import describe_model
from pipeline.acceleration.attention import build_attention
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.roster import Ticket
from pipeline.denoising.transformer import PackedTransformer
from pipeline.denoising.work import Listener, VelocityRequest
from pipeline.networks import load_transformer
from pipeline.request import PromptEncoding, RenderPath
from pipeline.stages import TextEncoder
from pipeline.weights import resolve_weights

TILED = PoolConfig(
    path=RenderPath.TILED,
    tiling=TilingConfig(tile_size=16, overlap=4, start_sigma=0.643, base_max_pixels=128 * 128),
)
CPU = torch.device("cpu")


@dataclass
class CountingTextEncoder:
    """A `TextEncoder` that counts."""

    text_encoder: TextEncoder
    num_prompts: int = 0

    def encode(self, prompt: str) -> PromptEncoding:
        self.num_prompts += 1
        return self.text_encoder.encode(prompt)


class CountingLoop(StepLoop):
    """Notes the tiles that it is sent."""

    def __init__(self, transformer: PackedTransformer, tiles: list[VelocityRequest]) -> None:
        super().__init__(transformer)
        self._tiles = tiles

    def submit_velocity(self, request: VelocityRequest, listener: Listener) -> Ticket:
        self._tiles.append(request)
        return super().submit_velocity(request, listener)


@dataclass(frozen=True)
class CountingLoader(StageLoader):
    """Loads stages whose work is counted."""

    text_encoders: list[CountingTextEncoder] = field(default_factory=list)
    captions: list[object] = field(default_factory=list)
    tiles: list[VelocityRequest] = field(default_factory=list)

    def text_encoder(self, config: TextEncoderConfig) -> TextEncoder:
        counting = CountingTextEncoder(super().text_encoder(config))
        self.text_encoders.append(counting)
        return counting

    def denoiser(self, config: PoolConfig) -> tuple[StepLoop, str]:
        model = load_transformer(self.weights, device=CPU, dtype=torch.float32)
        model.cap_embedder.register_forward_hook(lambda *_: self.captions.append(_))
        transformer = PackedTransformer(model, build_attention("sdpa", CPU))
        return CountingLoop(transformer, self.tiles), "cpu"


@pytest.mark.parametrize(
    ("size", "num_forwards"), [("128x128", 4), ("256x256", 2 + 2 * 9), ("384x384", 2 + 2 * 16)]
)
async def test_prompt_and_caption_path_are_computed_once(
    tiny_model: Path, tmp_path: Path, size: str, num_forwards: int
) -> None:
    config = local_config(tiny_model, tmp_path / "store").model_copy(update={"pools": (TILED,)})
    load = CountingLoader(resolve_weights(config.model.source))
    stages = load_local_stages(config, load, describe_model(load.weights, served_name="tiny"))
    transport = httpx.ASGITransport(app=build_api_over(config, stages))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = {"prompt": "a red circle", "size": size, "num_inference_steps": 4}
        answer = await client.post("/v1/images/generations", json=body)

    assert (answer.status_code, answer.json()["path"]) == (200, "tiled")
    assert load.text_encoders[0].num_prompts == 1
    assert len(load.captions) == 1
    assert len(load.tiles) == num_forwards
