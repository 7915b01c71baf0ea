"""`zimage-serve check`: the configuration, and what is wrong with it, a line each."""

import argparse
from collections.abc import Callable

import torch
import yaml

from cluster.errors import ClusterError
from deployments.commands.options import to_config
from deployments.config import AppConfig
from deployments.config_file import ConfigurationError
from deployments.key_file import read_key_file
from deployments.redis_checks import check_cache, check_jobs, check_quotas
from deployments.served_model import describe_model
from deployments.stage_checks import check_stages
from deployments.stores import check_store
from pipeline.errors import PipelineError
from pipeline.weights import resolve_weights


def run_check(options: argparse.Namespace) -> int:
    """Print everything that can be known without starting the service."""
    try:
        config = to_config(options)
    except ConfigurationError as exc:
        _print_mistakes(exc)
        return 1
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip())
    checks = (
        _describe_gpus,
        _describe_model,
        _describe_store,
        _describe_keys,
        check_jobs,
        check_quotas,
        check_cache,
    )
    outcomes = [_run(check, config) for check in checks]
    return 0 if all(outcomes) else 1


def _run(check: Callable[[AppConfig], str], config: AppConfig) -> bool:
    try:
        print(f"ok: {check(config)}")
    except (ConfigurationError, PipelineError, ClusterError) as exc:
        _print_mistakes(exc)
        return False
    return True


def _print_mistakes(exc: Exception) -> None:
    print("\n".join(f"wrong: {line}" for line in str(exc).splitlines()))


def _describe_gpus(config: AppConfig) -> str:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    needs_gpu = [
        name
        for name, section in (
            ("text_encoder", config.text_encoder),
            *((f"pools.{pool.name}", pool) for pool in config.pools),
            ("vae_decoder", config.vae_decoder),
        )
        if section.device == "cuda" and not section.label_selector
    ]
    if needs_gpu and not names:
        raise ConfigurationError(f"{', '.join(needs_gpu)}: device is cuda, and there is no GPU")
    return f"GPUs of this machine: {', '.join(names) or 'none'}"


def _describe_model(config: AppConfig) -> str:
    weights = resolve_weights(config.model.source, config.model.revision)
    for component in ("scheduler", "text_encoder", "tokenizer", "transformer", "vae"):
        if weights.folder is not None:
            weights.component(component)
    model = describe_model(weights, served_name=config.model.served_name)
    check_stages(config, model, has_gpu=torch.cuda.is_available())
    return f"model {config.model.source} has revision {weights.revision}"


def _describe_store(config: AppConfig) -> str:
    check_store(config.store)
    place = config.store.path if config.store.kind == "folder" else config.store.bucket
    return f"store {config.store.kind} {place} is writable"


def _describe_keys(config: AppConfig) -> str:
    if config.keys.file is None:
        return "no keys: anyone who reaches the service may call it"
    names = [entry.name for entry in read_key_file(config.keys.file).keys]
    return f"keys of {', '.join(names) or 'nobody'}"
