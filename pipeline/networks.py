"""The networks of a model, read from its weights; importing this imports diffusers."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from transformers import AutoModel, AutoTokenizer

from pipeline.errors import WeightsError
from pipeline.weights import Weights


def load_transformer(
    weights: Weights, *, device: torch.device, dtype: torch.dtype
) -> ZImageTransformer2DModel:
    """Read the denoiser's network.

    Raises:
        WeightsError: If a tensor is missing or of another shape, or a file cannot be read.
    """
    model = _read(
        ZImageTransformer2DModel, weights, "transformer", torch_dtype=dtype, low_cpu_mem_usage=True
    )
    return model.to(device).eval().requires_grad_(False)


def load_vae(weights: Weights, *, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """Read the autoencoder, without its encoder half: the service only decodes.

    Raises:
        WeightsError: As `load_transformer` does.
    """
    vae = _read(AutoencoderKL, weights, "vae", torch_dtype=dtype, low_cpu_mem_usage=True)
    vae.encoder = None
    return vae.to(device).eval().requires_grad_(False)


def load_language_model(weights: Weights, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Read the text encoder's transformer (a `Qwen3Model`).

    Raises:
        WeightsError: As `load_transformer` does.
    """
    model = _read(AutoModel, weights, "text_encoder", dtype=dtype, trust_remote_code=False)
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(weights: Weights) -> Any:
    """Read the tokenizer and its chat template."""
    return AutoTokenizer.from_pretrained(weights.component("tokenizer"), trust_remote_code=False)


def _read(network: Any, weights: Weights, name: str, **options: Any) -> Any:
    """Read a component; a tensor that is not there would be drawn at random in each process."""
    folder = _safetensors_folder(weights, name)
    try:
        model, info = network.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as exc:
        raise WeightsError(f"{name} could not be read ({type(exc).__name__}: {exc})") from exc
    wrong = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    if wrong:
        raise WeightsError(
            f"{name} must have every tensor of its configuration, "
            f"got {len(wrong)} missing or of another shape, the first is {wrong[0]}"
        )
    return model


def _safetensors_folder(weights: Weights, name: str) -> Path:
    folder = weights.component(name)
    if not any(folder.glob("*.safetensors")):
        found = sorted(path.name for path in folder.iterdir())
        raise WeightsError(f"{name} must hold safetensors files, got {found}")
    return folder
