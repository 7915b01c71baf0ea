"""The stages behind Serve's handles; the one place where Ray's errors become the service's."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any, Final

from grpc.aio import AioRpcError
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from torch import Tensor

from cluster.spans import Carrier, to_carrier
from deployments.calls_config import ByValue
from deployments.errors import RETRY_AFTER_S, OverloadedError, ReplicaLostError
from deployments.stage_telemetry import StageTelemetry
from deployments.stages import (
    DecodeRequest,
    Denoised,
    Encoded,
    FileOrder,
    ImageFile,
    Refusal,
    TileVelocity,
    take_encoded,
)
from deployments.tile_coordinator import TileCoordinatorDeployment, TiledSettings
from pipeline.denoising.work import VelocityRequest
from pipeline.request import DenoiseRequest, StepEvent

_REQUEST_SERIALIZATION: Final = "pickle"
"""Of calls by value, for which Ray has its own, three times as slow, that takes any object: what is
sent here are classes of packages. What comes back can be an exception of any kind."""


class HandleStages:
    """Calls the deployments that the application bound."""

    def __init__(
        self,
        text_encoder: DeploymentHandle[Any],
        denoisers: Mapping[str, DeploymentHandle[Any]],
        vae_decoder: DeploymentHandle[Any],
        *,
        by_value: ByValue,
    ) -> None:
        self._text_encoder = _for_short_calls(text_encoder, by_value)
        self._denoisers = {
            pool: _for_long_calls(handle, by_value) for pool, handle in denoisers.items()
        }
        self._streams = {pool: handle.options(stream=True) for pool, handle in denoisers.items()}
        self._vae_decoder = _for_short_calls(vae_decoder, by_value)

    async def encode(self, prompt: str) -> Encoded:
        """Encode one prompt."""
        with _service_errors():
            answer: Encoded | Refusal = await self._text_encoder.encode.remote(prompt, to_carrier())
        return take_encoded(answer)

    async def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield the events that the request asks for and, last, the latents."""
        with _service_errors():
            if not yields_steps:
                answer: Any = self._denoisers[pool].denoise_silently.remote(request, to_carrier())
                try:
                    yield await answer
                finally:
                    answer.cancel()
                return
            events: Any = self._streams[pool].denoise.remote(
                request, yields_steps=True, trace=to_carrier()
            )
            try:
                async for event in events:
                    yield event
            finally:
                events.cancel()

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        """Decode latents and encode the file."""
        with _service_errors():
            request = DecodeRequest(latents, order)
            file: ImageFile = await self._vae_decoder.decode.remote(request, to_carrier())
        return file


class HandleTileCoordinator(TileCoordinatorDeployment):
    """A coordinator whose tiles go to the replicas behind a handle."""

    def __init__(
        self,
        load: Callable[[], TiledSettings],
        denoiser: DeploymentHandle[Any],
        telemetry: StageTelemetry,
        *,
        by_value: ByValue,
    ) -> None:
        super().__init__(load, self._call, telemetry)
        self._denoiser = _for_long_calls(denoiser, by_value)

    async def _call(self, request: VelocityRequest, trace: Carrier) -> TileVelocity:
        with _service_errors():
            tile: TileVelocity = await self._denoiser.predict_velocity.remote(request, trace)
        return tile


def _for_short_calls(handle: DeploymentHandle[Any], by_value: ByValue) -> DeploymentHandle[Any]:
    """For calls that take a stage's own milliseconds, so few are on a machine that falls silent."""
    return handle.options(
        _by_reference=by_value == "none", request_serialization=_REQUEST_SERIALIZATION
    )


def _for_long_calls(handle: DeploymentHandle[Any], by_value: ByValue) -> DeploymentHandle[Any]:
    """For calls that take most of a picture's time."""
    return handle.options(
        _by_reference=by_value != "all", request_serialization=_REQUEST_SERIALIZATION
    )


@contextlib.contextmanager
def _service_errors() -> Iterator[None]:
    try:
        yield
    except RayTaskError as exc:
        raise exc.cause from None
    except asyncio.CancelledError as exc:
        if _is_cancelled():
            raise
        # A replica that must stop at once cancels what it holds.
        raise ReplicaLostError("a replica let go of a call", None, RETRY_AFTER_S) from exc
    except AioRpcError as exc:
        raise ReplicaLostError("a replica broke off a call", None, RETRY_AFTER_S) from exc
    except BackPressureError as exc:
        raise OverloadedError("the service is full", None, RETRY_AFTER_S) from exc
    except DeploymentUnavailableError as exc:
        # Nothing took the work, so nothing was lost with it.
        raise OverloadedError("a stage has no replica now", None, RETRY_AFTER_S) from exc
    except (RayActorError, ObjectLostError) as exc:
        raise ReplicaLostError("a replica was lost in the middle", None, RETRY_AFTER_S) from exc


def _is_cancelled() -> bool:
    """Say whether it is the caller that gives up, not the replica."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
