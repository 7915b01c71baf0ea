"""The stages in this process, without Ray: for the command line and for tests."""

from collections.abc import AsyncGenerator, Mapping
from functools import partial

from torch import Tensor

from deployments.config import AppConfig, PoolConfig
from deployments.denoiser import DenoiserDeployment, PoolTerms
from deployments.loading import StageLoader
from deployments.pools import to_terms
from deployments.served_model import ServedModel
from deployments.stages import DecodeRequest, Denoised, Encoded, FileOrder, ImageFile
from deployments.text_encoder import TextEncoderDeployment
from deployments.tile_coordinator import TileCoordinatorDeployment
from deployments.vae_decoder import VaeDecoderDeployment
from pipeline.request import DenoiseRequest, RenderPath, StepEvent


class LocalStages:
    """Calls the deployments' own classes directly."""

    def __init__(
        self,
        text_encoder: TextEncoderDeployment,
        denoisers: Mapping[str, DenoiserDeployment | TileCoordinatorDeployment],
        vae_decoder: VaeDecoderDeployment,
    ) -> None:
        self._text_encoder = text_encoder
        self._denoisers = denoisers
        self._vae_decoder = vae_decoder

    async def encode(self, prompt: str) -> Encoded:
        """Encode one prompt."""
        return await self._text_encoder.encode(prompt)

    def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield a `StepEvent` a step, if asked to, and the latents at the end."""
        return self._denoisers[pool].denoise(request, yields_steps=yields_steps)

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        """Decode latents and encode the file."""
        return await self._vae_decoder.decode(DecodeRequest(latents, order))


def load_local_stages(config: AppConfig, load: StageLoader, model: ServedModel) -> LocalStages:
    """Read every component of the model into this process."""
    terms_of = partial(to_terms, model=model, step_detail_ratio=config.telemetry.step_detail_ratio)
    return LocalStages(
        TextEncoderDeployment(lambda: load.text_encoder(config.text_encoder)),
        {pool.name: _load_pool(pool, load, terms_of(pool)) for pool in config.pools},
        VaeDecoderDeployment(lambda: load.vae_decoder(config.vae_decoder)),
    )


def _load_pool(
    pool: PoolConfig, load: StageLoader, terms: PoolTerms
) -> DenoiserDeployment | TileCoordinatorDeployment:
    denoiser = DenoiserDeployment(partial(load.denoiser, pool), lambda: "local", terms)
    if pool.path is RenderPath.FULL_IMAGE:
        return denoiser
    return TileCoordinatorDeployment(partial(load.tiled_settings, pool), denoiser.predict_velocity)
