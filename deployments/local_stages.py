"""The stages in this process, without Ray: for the command line and for tests."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial

from torch import Tensor

from deployments.config import AppConfig, PoolConfig
from deployments.denoiser import DenoiserDeployment
from deployments.loading import StageLoader
from deployments.pools import to_terms
from deployments.served_model import ServedModel
from deployments.stages import DecodeRequest, Denoised, Encoded, FileOrder, ImageFile, take_encoded
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
        replicas: Sequence[DenoiserDeployment],
    ) -> None:
        """Denoise by pool; `replicas` own the threads that do."""
        self._text_encoder = text_encoder
        self._denoisers = denoisers
        self._vae_decoder = vae_decoder
        self._replicas = replicas

    async def encode(self, prompt: str) -> Encoded:
        """Encode one prompt."""
        return take_encoded(await self._text_encoder.encode(prompt))

    def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield a `StepEvent` a step, if asked to, and the latents at the end."""
        return self._denoisers[pool].denoise(request, yields_steps=yields_steps)

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        """Decode latents and encode the file."""
        return await self._vae_decoder.decode(DecodeRequest(latents, order))

    def close(self) -> None:
        """Let go of every picture before its next step, and wait for the step that runs."""
        for replica in self._replicas:
            replica.close()


def load_local_stages(config: AppConfig, load: StageLoader, model: ServedModel) -> LocalStages:
    """Read every component of the model into this process."""
    terms_of = partial(to_terms, model=model, step_detail_ratio=config.telemetry.step_detail_ratio)
    text_encoder = TextEncoderDeployment(lambda: load.text_encoder(config.text_encoder))
    replicas = {
        pool.name: DenoiserDeployment(partial(load.denoiser, pool), lambda: "local", terms_of(pool))
        for pool in config.pools
    }
    return LocalStages(
        text_encoder,
        {pool.name: _to_front(pool, load, replicas[pool.name]) for pool in config.pools},
        VaeDecoderDeployment(
            lambda: load.vae_decoder(config.vae_decoder),
            num_threads=config.vae_decoder.num_threads,
        ),
        tuple(replicas.values()),
    )


def _to_front(
    pool: PoolConfig, load: StageLoader, denoiser: DenoiserDeployment
) -> DenoiserDeployment | TileCoordinatorDeployment:
    if pool.path is RenderPath.FULL_IMAGE:
        return denoiser
    return TileCoordinatorDeployment(partial(load.tiled_settings, pool), denoiser.predict_velocity)
