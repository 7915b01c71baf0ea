"""Qwen3 with its chat template: prompt to prompt_embeds."""

from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from pipeline.acceleration.options import (
    Acceleration,
    AccelerationOptions,
    BlockKernels,
    choose_acceleration,
)
from pipeline.device import ComputeDevice
from pipeline.errors import InvalidRequestError
from pipeline.networks import load_language_model, load_tokenizer
from pipeline.request import PromptEncoding
from pipeline.weights import Weights

MAX_PROMPT_TOKENS: Final = 512
"""`max_sequence_length` of diffusers' `ZImagePipeline`, chat template included."""


class PromptLayers(Protocol):
    """Qwen3's layers, without the last one and the last norm."""

    def encode(self, token_ids: Tensor) -> Tensor:
        """Return the hidden states, [tokens, dim], of one prompt's [tokens] ids."""
        ...


class ModulePromptLayers:
    """The model's own modules."""

    def __init__(self, language_model: Any) -> None:
        self._language_model = language_model

    def encode(self, token_ids: Tensor) -> Tensor:
        """Run the model."""
        input_ids = token_ids[None].to(self._language_model.device)
        hidden: Tensor = self._language_model(input_ids, use_cache=False).last_hidden_state[0]
        return hidden


class QwenTextEncoder:
    """The second-last hidden state of Qwen3, as Z-Image was trained on it.

    The prompt runs without padding, which changes nothing but the rounding: a masked pad is never
    attended to, and RoPE is relative. The last layer is never computed.
    """

    def __init__(self, tokenizer: Any, layers: PromptLayers) -> None:
        self._tokenizer = tokenizer
        self._layers = layers

    @property
    def template(self) -> str:
        """What is put around every prompt."""
        return self._apply_template("")

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of the templated prompt."""
        return int(self._tokenize(prompt).shape[1])

    @torch.inference_mode()
    def encode(self, prompt: str) -> PromptEncoding:
        """Encode one prompt.

        Raises:
            InvalidRequestError: If the templated prompt has more than 512 tokens.
        """
        input_ids = self._tokenize(prompt)
        if input_ids.shape[1] > MAX_PROMPT_TOKENS:
            raise InvalidRequestError(
                f"prompt must have at most {MAX_PROMPT_TOKENS} tokens, got {input_ids.shape[1]}"
            )
        hidden = self._layers.encode(input_ids[0])
        # Out of inference mode, since the tensor is pickled, and used with weights that are not.
        with torch.inference_mode(False):
            # Not pinned: whoever caches it would hold up to twice its bytes.
            return PromptEncoding(prompt_embeds=hidden.to("cpu", copy=True))

    def _tokenize(self, prompt: str) -> Tensor:
        templated = self._apply_template(prompt)
        input_ids: Tensor = self._tokenizer(templated, return_tensors="pt").input_ids
        return input_ids

    def _apply_template(self, prompt: str) -> str:
        templated: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        return templated


def load_text_encoder(
    weights: Weights, compute: ComputeDevice, options: AccelerationOptions | None = None
) -> QwenTextEncoder:
    """Read tokenizer and language model.

    Raises:
        AccelerationUnavailableError: If this machine cannot run the options.
    """
    acceleration = choose_acceleration(options or AccelerationOptions(), compute.device)
    device = acceleration.choose_load_device(compute.device)
    language_model = load_language_model(weights, device=device, dtype=compute.dtype)
    layers = build_prompt_layers(language_model, acceleration, compute.device)
    return QwenTextEncoder(load_tokenizer(weights), layers)


def build_prompt_layers(
    language_model: Any, acceleration: Acceleration, device: torch.device
) -> PromptLayers:
    """Take a whole `Qwen3Model` and keep what `hidden_states[-2]` needs of it, on the device."""
    shortened = _without_last_layer(language_model)
    if acceleration.kernels is BlockKernels.MODULES:
        return ModulePromptLayers(shortened.to(device))
    from pipeline.acceleration.fused_qwen import FusedQwen  # its kernels come with CUDA builds only

    return FusedQwen(shortened, acceleration, device)


def _without_last_layer(language_model: Any) -> Any:
    """Cut the model so that its output is `hidden_states[-2]` of the whole one."""
    language_model.layers = language_model.layers[:-1]
    language_model.norm = nn.Identity()
    return language_model
