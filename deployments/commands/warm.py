"""`zimage-serve warm`: compile what replicas of this configuration would, and keep it."""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from cluster.errors import ClusterError
from deployments.commands.failure import tell_failure
from deployments.commands.options import to_config
from deployments.config import AppConfig
from deployments.config_file import ConfigurationError
from deployments.kernel_cache import KernelCache
from deployments.loading import StageLoader, build_loader
from deployments.served_model import describe_model
from pipeline.device import choose_device
from pipeline.errors import PipelineError
from pipeline.weights import resolve_weights

TEXT_ENCODER: Final = "text_encoder"
VAE_DECODER: Final = "vae_decoder"


def run_warm(options: argparse.Namespace) -> int:
    """Load each stage in a process of its own, let it draw, and put the kernels into the bucket."""
    try:
        config = to_config(options)
        weights = resolve_weights(config.model.source, config.model.revision)
        load_stage = build_loader(config, weights)
        cache = _require(load_stage.kernel_cache)
        stages = plan_stages(config, load_stage, options.only)
        for name, load in stages.items():
            _run_apart(name, load)
        _publish(cache)
    except (ConfigurationError, PipelineError, ClusterError) as exc:
        tell_failure(exc)
        return 1
    return 0


def plan_stages(
    config: AppConfig, load: StageLoader, only: list[str] | None
) -> dict[str, Callable[[], object]]:
    """Name what is loaded: `text_encoder`, each pool, `vae_decoder`.

    Without `warm_sizes` a stage draws the model's own size, since a kernel is compiled by its use.

    Raises:
        ConfigurationError: If a stage of `only` does not exist.
    """
    size = describe_model(load.weights, served_name=None).default_size
    vae_decoder = config.vae_decoder
    if not vae_decoder.warm_sizes:
        vae_decoder = vae_decoder.model_copy(update={"warm_sizes": (str(size),)})
    stages: dict[str, Callable[[], object]] = {
        TEXT_ENCODER: partial(load.text_encoder, config.text_encoder)
    }
    for pool in config.pools:
        sizes = pool.warm_sizes or (str(size),)
        stages[pool.name] = partial(load.denoiser, pool.model_copy(update={"warm_sizes": sizes}))
    stages[VAE_DECODER] = partial(load.vae_decoder, vae_decoder)
    unknown = sorted(set(only or ()) - set(stages))
    if unknown:
        raise ConfigurationError(f"--only must name {', '.join(stages)}, got {', '.join(unknown)}")
    return {name: stage for name, stage in stages.items() if not only or name in only}


def _require(cache: KernelCache | None) -> KernelCache:
    if cache is None:
        raise ConfigurationError("kernel_cache.folder must name a folder for kernels, got none")
    if not torch.cuda.is_available():
        raise ConfigurationError("kernels must be compiled on a GPU, and this machine shows none")
    return cache


def _run_apart(name: str, load: Callable[[], object]) -> None:
    """Run a stage's start where its memory ends with it."""
    print(f"{name}: loading and drawing ...", flush=True)
    begun_s = time.monotonic()
    process = multiprocessing.get_context("spawn").Process(target=load)
    process.start()
    process.join()
    if process.exitcode:
        raise PipelineError(f"{name} did not start on this machine, see above")
    print(f"{name}: {time.monotonic() - begun_s:.1f} s", flush=True)


def _publish(cache: KernelCache) -> None:
    accelerator = choose_device("cuda").accelerator
    folder = cache.folder_of(accelerator)
    num_files = sum(path.is_file() for path in folder.rglob("*"))
    print(f"{num_files} files of kernels in {folder}")
    if num_bytes := cache.publish(accelerator):
        print(f"put {num_bytes} bytes into the bucket")
