"""Save the trained networks as stock diffusers and transformers load them."""

import copy
import json
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
from transformers import PreTrainedTokenizerFast, Qwen3Model

from pipeline.embedded.training.models import build_scheduler, build_text_encoder

_TOKENIZER_CLASS: Final = "PreTrainedTokenizerFast"
"""The name that every release of transformers knows; the fifth saves another."""


def export_model(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: Qwen3Model,
    transformer: ZImageTransformer2DModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write the folder in bfloat16.

    Args:
        folder: Where to, in diffusers' layout.
        vae: Trained.
        text_encoder: Trained, without the layer that is never read; it is written as zeros.
        transformer: Trained.
        tokenizer: What the text encoder was trained with.
    """
    pipeline = ZImagePipeline(
        scheduler=build_scheduler(),
        vae=copy.deepcopy(vae).to("cpu", torch.bfloat16),
        text_encoder=_whole_encoder(text_encoder),
        tokenizer=tokenizer,
        transformer=copy.deepcopy(transformer).to("cpu", torch.bfloat16),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    _edit(folder / "tokenizer" / "tokenizer_config.json", tokenizer_class=_TOKENIZER_CLASS)
    _edit(folder / "model_index.json", tokenizer=["transformers", _TOKENIZER_CLASS])


def _whole_encoder(trained: Qwen3Model) -> Qwen3Model:
    whole = build_text_encoder()
    for parameter in whole.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    weights = {name: tensor.float().cpu() for name, tensor in trained.state_dict().items()}
    missing, unexpected = whole.load_state_dict(weights, strict=False)
    unread = f"layers.{len(whole.layers) - 1}."
    strays = [name for name in missing if not name.startswith(unread) and name != "norm.weight"]
    if strays or unexpected:
        raise ValueError(f"text encoder must have the trained layers, got {strays} {unexpected}")
    return whole.to(torch.bfloat16)


def _edit(path: Path, **changes: Any) -> None:
    settings = json.loads(path.read_text())
    settings.update(changes)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
