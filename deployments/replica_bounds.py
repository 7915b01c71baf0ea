"""Serve's options for the number of replicas: fixed, or between bounds by the backlog."""

from typing import Any, Final

from ray.serve.config import AutoscalingPolicy

from cluster.cost import full_image_units
from deployments.config import AppConfig, PoolConfig, ReplicaConfig
from deployments.pools import guess_speed
from deployments.scaling_policy import BacklogScalingPolicy, FollowerScalingPolicy
from deployments.served_model import ServedModel

_BUSY_S_PER_PICTURE: Final = 0.1
"""About what text encoder and VAE decoder take for one picture of the native size on a GPU."""


def pool_options(pool: PoolConfig, model: ServedModel) -> dict[str, Any]:
    """Scale a pool by its backlog."""
    return _options(
        pool,
        AutoscalingPolicy(  # type: ignore[no-untyped-call]
            policy_function=BacklogScalingPolicy,
            policy_kwargs={"pool": pool.name, **_settings(pool, model)},
        ),
    )


def follower_options(stage: ReplicaConfig, config: AppConfig, model: ServedModel) -> dict[str, Any]:
    """Scale a stage ahead of what the pools will ask of it."""
    size = model.default_size
    units = full_image_units(size.height, size.width, model.default_steps)
    return _options(
        stage,
        AutoscalingPolicy(  # type: ignore[no-untyped-call]
            policy_function=FollowerScalingPolicy,
            policy_kwargs={
                "pools": {pool.name: _settings(pool, model) for pool in config.pools},
                "units_per_picture": units,
                "busy_s_per_picture": _BUSY_S_PER_PICTURE,
                "target_ongoing_requests": stage.target_ongoing_requests,
                "policy": _policy(stage),
            },
        ),
    )


def _options(config: ReplicaConfig, policy: AutoscalingPolicy) -> dict[str, Any]:
    if config.min_replicas == config.max_replicas:
        return {"num_replicas": config.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            # The policy has delays of its own.
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 0.0,
            "downscale_to_zero_delay_s": 0.0,
            "policy": policy,
        }
    }


def _settings(pool: PoolConfig, model: ServedModel) -> dict[str, Any]:
    return {
        "guess_units_per_s": guess_speed(pool, model).overall.units_per_s,
        "policy": _policy(pool),
    }


def _policy(config: ReplicaConfig) -> dict[str, Any]:
    return {
        "min_replicas": config.min_replicas,
        "max_replicas": config.max_replicas,
        **config.scaling.model_dump(),
    }
