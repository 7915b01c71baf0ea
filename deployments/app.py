"""The composition root: the only place that decorates and binds deployments."""

from functools import partial
from typing import Any, Final

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.config import AppConfig, PoolConfig, ReplicaConfig
from deployments.denoiser import DenoiserDeployment
from deployments.handles import HandleTileCoordinator
from deployments.ledger_actor import ReplicaReporter
from deployments.loading import StageLoader, build_loader
from deployments.memory_plan import max_pixels_in_memory
from deployments.pools import to_terms
from deployments.process_telemetry import start_replica_telemetry
from deployments.replica_bounds import follower_options, pool_options
from deployments.router import RouterDeployment
from deployments.served_model import ServedModel, describe_model
from deployments.stage_telemetry import StageName, StageTelemetry
from deployments.telemetry_config import TelemetryConfig
from deployments.text_encoder import TextEncoderDeployment
from deployments.tile_coordinator import TileCoordinatorDeployment
from deployments.vae_decoder import VaeDecoderDeployment
from pipeline.request import RenderPath
from pipeline.weights import resolve_weights

TAKE_TURNS: Final = RequestRouterConfig(
    # Ray's field takes a path as well as a class, which its annotation does not say.
    request_router_class="ray.serve.experimental.round_robin_router:RoundRobinRouter"  # type: ignore[arg-type]
)
"""Tiles of a step come at once and take equally long, so replicas take them in turn. Ray's default
chooses by queue lengths that it learnt earlier: of two idle replicas, one may get every tile."""


def build_app(config: AppConfig) -> Application:
    """Build the application: `serve run deployments.app:build_app` and `serveConfigV2` call this.

    Raises:
        WeightsError: If the model is not one that the service can read.
        PlacementError: If a pool's memory does not hold its tiles.
    """
    weights = resolve_weights(config.model.source, config.model.revision)
    model = describe_model(weights, served_name=config.model.served_name)
    return bind_app(config, build_loader(config, weights, goes_behind=True), model)


def bind_app(config: AppConfig, load: StageLoader, model: ServedModel) -> Application:
    """Bind every deployment to what it loads.

    Raises:
        PlacementError: If a pool's memory does not hold its tiles.
    """
    for pool in config.pools:
        max_pixels_in_memory(pool, config.vae_decoder, model)
    text_encoder = serve.deployment(
        **_options(
            config,
            config.text_encoder,
            follower_options(config.text_encoder, config, model),
        )
    )(TextEncoderDeployment).bind(
        partial(load.cached_text_encoder, config.text_encoder, config.cache),
        _telemetry(config, "encode", config.text_encoder),
    )
    vae_decoder = serve.deployment(
        **_options(config, config.vae_decoder, follower_options(config.vae_decoder, config, model))
    )(VaeDecoderDeployment).bind(
        partial(load.vae_decoder, config.vae_decoder),
        _telemetry(config, "decode", config.vae_decoder),
        num_threads=config.vae_decoder.num_threads,
    )
    denoisers = {pool.name: _bind_pool(config, load, pool, model) for pool in config.pools}
    router = serve.deployment(**_router_options(config))(serve.ingress()(RouterDeployment))
    return router.bind(config, model, text_encoder, denoisers, vae_decoder)


def _bind_pool(
    config: AppConfig, load: StageLoader, pool: PoolConfig, model: ServedModel
) -> Application:
    name = f"{DenoiserDeployment.__name__}-{pool.name}"
    options = _options(config, pool, pool_options(pool, model))
    if pool.path is RenderPath.TILED:
        options["request_router_config"] = TAKE_TURNS
    deployment = serve.deployment(name=name, **options)(DenoiserDeployment)
    denoiser = deployment.bind(
        partial(load.denoiser, pool),
        _name_replica,
        to_terms(pool, model, step_detail_ratio=config.telemetry.step_detail_ratio),
        ReplicaReporter,
        _telemetry(config, "denoise", pool),
    )
    if pool.path is RenderPath.FULL_IMAGE:
        return denoiser
    coordinator = serve.deployment(
        name=f"{TileCoordinatorDeployment.__name__}-{pool.name}",
        num_replicas=pool.num_coordinators,
        max_ongoing_requests=pool.max_ongoing_requests,
        graceful_shutdown_timeout_s=pool.graceful_shutdown_timeout_s,
        # Beside the routers: on a node of the pool it would keep that node from ever going.
        ray_actor_options={"num_cpus": pool.num_cpus, **_labels(config.router.label_selector)},
    )(HandleTileCoordinator)
    return coordinator.bind(
        partial(load.tiled_settings, pool),
        denoiser,
        _telemetry(config, "denoise", pool),
        by_value=config.calls.by_value,
    )


def _telemetry(config: AppConfig, stage: StageName, replicas: ReplicaConfig) -> StageTelemetry:
    return StageTelemetry(
        stage, partial(start_replica_telemetry, config.telemetry, replicas.device)
    )


def _name_replica() -> str:
    return serve.get_replica_context().replica_id.unique_id


def _options(config: AppConfig, replicas: ReplicaConfig, scaling: dict[str, Any]) -> dict[str, Any]:
    return {
        **scaling,
        "max_ongoing_requests": replicas.max_ongoing_requests,
        "graceful_shutdown_timeout_s": replicas.graceful_shutdown_timeout_s,
        "logging_config": _logging(config.telemetry),
        "ray_actor_options": {
            "num_cpus": replicas.num_cpus,
            "num_gpus": replicas.num_gpus,
            **_labels(replicas.label_selector),
        },
    }


def _logging(telemetry: TelemetryConfig) -> LoggingConfig:
    """Leave Serve's access log off: the router writes one line a call, which says more."""
    return LoggingConfig(
        encoding=telemetry.log_encoding, log_level=telemetry.log_level, enable_access_log=False
    )


def _router_options(config: AppConfig) -> dict[str, Any]:
    router = config.router
    return {
        "num_replicas": router.num_replicas,
        "max_ongoing_requests": router.max_ongoing_requests,
        "graceful_shutdown_timeout_s": router.graceful_shutdown_timeout_s,
        "logging_config": _logging(config.telemetry),
        "ray_actor_options": {"num_cpus": router.num_cpus, **_labels(router.label_selector)},
    }


def _labels(selector: dict[str, str]) -> dict[str, Any]:
    return {"label_selector": selector} if selector else {}
