"""`zimage-serve generate`: one picture into a file."""

import argparse
import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any, Final

import httpx
import transformers
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from tqdm import tqdm

from cluster.errors import ClusterError
from deployments.client import ClientError, ImagesClient
from deployments.commands.failure import tell_failure
from deployments.commands.options import read_key, to_config
from deployments.config import AppConfig
from deployments.config_file import ConfigurationError
from deployments.errors import ApiError
from deployments.generation import ImagesOrder, build_provenance
from deployments.loading import build_loader
from deployments.local_stages import LocalStages, load_local_stages
from deployments.pool_choice import FirstPoolChooser, Route
from deployments.schemas import ImagesRequest
from deployments.served_model import ServedModel, describe_model
from deployments.stages import FileOrder, Stages, take_latents
from deployments.validation import RequestRules
from deployments.validation_errors import explain_validation_error
from pipeline.errors import PipelineError
from pipeline.request import StepEvent
from pipeline.weights import resolve_weights

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_FORMATS: Final = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_PROBE_TIMEOUT_S: Final = 1.0


def run_generate(options: argparse.Namespace) -> int:
    """Draw one picture by a running service if there is one, else in this process."""
    try:
        _check_url(options)
        body = _to_body(options)
        url = options.url or _find_service(options)
        key = read_key(options.key_file)
        if url is not None:
            content = _ask(url, key, body, trust_env=options.url is not None)
        else:
            content = _draw(to_config(options), body)
        options.output.write_bytes(content)
    except (ConfigurationError, PipelineError, ClusterError, ApiError, ClientError, OSError) as exc:
        tell_failure(exc.message if isinstance(exc, ApiError) else exc)
        return 1
    print(f"wrote {options.output}")
    return 0


def _check_url(options: argparse.Namespace) -> None:
    if options.url is None:
        return
    for name in ("config", "model"):
        if getattr(options, name) is not None:
            raise ConfigurationError(
                f"--{name} must be left out with --url: the service there has its own"
            )


def _to_body(options: argparse.Namespace) -> dict[str, Any]:
    try:
        options.prompt.encode()
    except UnicodeEncodeError as exc:
        # Python reads an argument's other bytes as lone surrogates.
        raise ConfigurationError("the prompt must be UTF-8") from exc
    body = {
        "prompt": options.prompt,
        "size": options.size,
        "seed": options.seed,
        "num_inference_steps": options.steps,
        "output_format": _to_format(options.output),
    }
    return {name: value for name, value in body.items() if value is not None}


def _to_format(output: Path) -> str:
    """Return the format of a file that can be written, as far as is known before a picture."""
    suffix = output.suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigurationError(f"--output must end with one of {list(_FORMATS)}, got {suffix!r}")
    if output.is_dir():
        raise ConfigurationError(f"--output must be a file, got the folder {output}")
    if not output.parent.is_dir():
        raise ConfigurationError(f"--output must lie in a folder that exists, got {output}")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise ConfigurationError(f"--output must be writable, got {output}")
    return _FORMATS[suffix]


def _find_service(options: argparse.Namespace) -> str | None:
    if options.config or options.model:
        return None
    # Another program may listen there, and answer whatever it likes.
    with contextlib.suppress(httpx.HTTPError, ValueError):
        answer = httpx.get(f"{DEFAULT_URL}/readyz", timeout=_PROBE_TIMEOUT_S, trust_env=False)
        content = answer.json()
        if answer.status_code == 200 and isinstance(content, dict) and "pools" in content:
            return DEFAULT_URL
    return None


def _ask(url: str, key: str | None, body: dict[str, Any], *, trust_env: bool) -> bytes:
    print(f"asking {url}", flush=True)
    with tqdm(unit="step") as progress:

        def on_step(step: int, num_steps: int) -> None:
            progress.total = num_steps
            progress.update(step - progress.n)

        return ImagesClient(url, key=key, trust_env=trust_env).draw(body, on_step)


def _draw(config: AppConfig, body: dict[str, Any]) -> bytes:
    weights = resolve_weights(config.model.source, config.model.revision)
    model = describe_model(weights, served_name=config.model.served_name)
    rules = RequestRules.from_config(config, model)
    order = rules.to_order(_validate(body), request_id="command-line")
    print(f"loading {model.name}", flush=True)
    transformers.utils.logging.disable_progress_bar()
    route = FirstPoolChooser({pool.name: pool.path for pool in config.pools}).choose(
        order.to_facts()
    )
    stages = load_local_stages(config, build_loader(config, weights), model)
    return asyncio.run(_draw_order(stages, order, route, model))


def _validate(body: dict[str, Any]) -> ImagesRequest:
    try:
        return ImagesRequest.model_validate(body)
    except ValidationError as exc:
        located = [{**error, "loc": ("body", *error["loc"])} for error in exc.errors()]
        invalid = RequestValidationError(located)
        raise explain_validation_error(invalid, ImagesRequest) from exc


async def _draw_order(
    stages: LocalStages, order: ImagesOrder, route: Route, model: ServedModel
) -> bytes:
    try:
        return await _draw_with(stages, order, route, model)
    finally:
        # Its thread must not be inside torch when the interpreter ends, as at Ctrl-C: that aborts
        # the process. On the event loop, which the step loop tells what it lets go.
        await asyncio.to_thread(stages.close)


async def _draw_with(stages: Stages, order: ImagesOrder, route: Route, model: ServedModel) -> bytes:
    encoded = await stages.encode(order.prompt)
    request = order.to_denoise_request(0, encoded.encoding, timeout_s=None)
    with tqdm(total=order.num_inference_steps, unit="step") as progress:

        async def on_step(_: StepEvent) -> None:
            progress.update()

        events = stages.denoise(route.pool, request, yields_steps=True)
        denoised = await take_latents(events, on_step)
    provenance = build_provenance(order, route.path, model, order.seed, denoised.fingerprint)
    file_order = FileOrder(order.output_format, order.output_compression, provenance)
    return (await stages.decode(denoised.result.latents, file_order)).content
