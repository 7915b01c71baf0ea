"""What a configuration asks of its stages that no replica could do. Pure: asks no device."""

from collections.abc import Iterator

from cluster.accelerators import ACCELERATORS
from cluster.errors import ClusterError
from deployments.config import AppConfig, ReplicaConfig
from deployments.config_file import ConfigurationError
from deployments.pools import to_known_pool
from deployments.served_model import ServedModel
from pipeline.acceleration.options import AUTO, AccelerationOptions


def check_stages(config: AppConfig, model: ServedModel, *, has_gpu: bool) -> None:
    """Refuse what replicas would refuse when they start.

    Args:
        config: What is asked.
        model: What is served.
        has_gpu: Whether this machine has one, which `run` gives to stages that ask for none.

    Raises:
        ConfigurationError: With a line a mistake.
    """
    mistakes = [*_find_pool_mistakes(config, model), *_find_cpu_mistakes(config, has_gpu=has_gpu)]
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))


def _find_pool_mistakes(config: AppConfig, model: ServedModel) -> Iterator[str]:
    for index, pool in enumerate(config.pools):
        if pool.accelerator is not None and pool.accelerator not in ACCELERATORS:
            rule = f"must be one of {', '.join(sorted(ACCELERATORS))}"
            yield f"pools.{index}.accelerator {rule}, got {pool.accelerator!r}"
            continue
        try:
            to_known_pool(pool, config, model)
        except ClusterError as exc:
            yield f"pools.{index}: {exc}"


def _find_cpu_mistakes(config: AppConfig, *, has_gpu: bool) -> Iterator[str]:
    for name, stage, options in _list_stages(config):
        if not _runs_on_cpu(stage, has_gpu=has_gpu):
            continue
        if options.kernels == "fused":
            yield f"{name}.kernels must be auto or modules on a CPU, got 'fused'"
        if options.precision != AUTO:
            yield f"{name}.precision must be auto on a CPU, got {options.precision!r}"


def _list_stages(config: AppConfig) -> Iterator[tuple[str, ReplicaConfig, AccelerationOptions]]:
    """List each stage with where its options are."""
    yield "text_encoder", config.text_encoder, config.text_encoder.to_options()
    for index, pool in enumerate(config.pools):
        yield f"pools.{index}.step_loop", pool, pool.step_loop.to_options().acceleration
    yield "vae_decoder", config.vae_decoder, AccelerationOptions(config.vae_decoder.kernels)


def _runs_on_cpu(stage: ReplicaConfig, *, has_gpu: bool) -> bool:
    asks_for_none = stage.device == "auto" and not stage.num_gpus
    return stage.device == "cpu" or (asks_for_none and not has_gpu)
