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
    """Read the denoiser's network."""
    folder = _safetensors_folder(weights, "transformer")
    model = ZImageTransformer2DModel.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, low_cpu_mem_usage=True
    )
    return model.to(device).eval().requires_grad_(False)


def load_vae(weights: Weights, *, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """Read the autoencoder, without its encoder half: the service only decodes."""
    folder = _safetensors_folder(weights, "vae")
    vae = AutoencoderKL.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, low_cpu_mem_usage=True
    )
    vae.encoder = None
    return vae.to(device).eval().requires_grad_(False)


def load_language_model(weights: Weights, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Read the text encoder's transformer (a `Qwen3Model`)."""
    folder = _safetensors_folder(weights, "text_encoder")
    model = AutoModel.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(weights: Weights) -> Any:
    """Read the tokenizer and its chat template."""
    return AutoTokenizer.from_pretrained(weights.component("tokenizer"), trust_remote_code=False)


def _safetensors_folder(weights: Weights, name: str) -> Path:
    folder = weights.component(name)
    if not any(folder.glob("*.safetensors")):
        found = sorted(path.name for path in folder.iterdir())
        raise WeightsError(f"{name} must hold safetensors files, got {found}")
    return folder
