"""Models of the real classes with seeded random weights, in diffusers' folder layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class ModelShape:
    """The sizes by which a tiny model differs from the true one."""

    transformer: dict[str, Any]
    text_encoder: dict[str, Any]
    vae: dict[str, Any]


TINY = ModelShape(
    transformer={
        "dim": 64,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 32,
        "axes_dims": [8, 12, 12],
        "axes_lens": [1024, 64, 64],
    },
    text_encoder={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
    vae={"block_out_channels": (16, 16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8},
)

TURBO = ModelShape(
    transformer={},
    text_encoder={
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
)


def save_random_model(folder: Path, shape: ModelShape = TINY, *, seed: int = 0) -> Path:
    """Write a whole model and return its folder."""
    build_random_pipeline(shape, seed=seed).save_pretrained(folder, safe_serialization=True)
    return folder


def build_random_pipeline(shape: ModelShape = TINY, *, seed: int = 0) -> Any:
    """Build stock diffusers' pipeline over a random model, on the CPU in float32."""
    tokenizer = _build_tokenizer()
    text_encoder = {"vocab_size": len(tokenizer), **shape.text_encoder}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
            vae=AutoencoderKL(
                in_channels=3,
                out_channels=3,
                latent_channels=16,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
                **shape.vae,
            ),
            text_encoder=Qwen3Model(Qwen3Config(tie_word_embeddings=True, **text_encoder)),
            tokenizer=tokenizer,
            transformer=ZImageTransformer2DModel(**shape.transformer),
        )
        # The class leaves both pad tokens at zero, where a wrong use of them would not show.
        torch.nn.init.normal_(pipeline.transformer.x_pad_token)
        torch.nn.init.normal_(pipeline.transformer.cap_pad_token)
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.vae, pipeline.text_encoder, pipeline.transformer):
        module.eval().requires_grad_(False)
    return pipeline


def _build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with a token a byte."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate((*symbols, *_SPECIAL_TOKENS))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=_CHAT_TEMPLATE,
        pad_token=_SPECIAL_TOKENS[0],
        eos_token=_SPECIAL_TOKENS[2],
    )
