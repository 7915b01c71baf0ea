"""What the router knows of the model, without reading a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cluster.cost import ForwardCost, for_transformer
from pipeline.memory import DENOISER_BF16, DENOISER_FP8, PeakMemoryModel, scale_denoiser
from pipeline.request import SIZE_MULTIPLE, ImageSize
from pipeline.weights import EMBEDDED, Weights

DEFAULT_STEPS: Final = 8
_EMBEDDED_SIZE: Final = ImageSize(256, 256)
_EMBEDDED_MAX_SIDE: Final = 512
"""The embedded model was trained up to here, in image pixels; its RoPE table goes further."""
_NATIVE_SIZE: Final = ImageSize(1024, 1024)


@dataclass(frozen=True)
class ServedModel:
    """A model that callers may ask for."""

    name: str
    revision: str
    default_size: ImageSize
    max_height: int
    """In image pixels: RoPE's table ends there, or what the model was trained on."""
    max_width: int
    forward_cost: ForwardCost
    default_steps: int = DEFAULT_STEPS
    denoiser_memory: PeakMemoryModel = DENOISER_BF16
    """In bfloat16, on a GPU."""
    eight_bit_memory: PeakMemoryModel = DENOISER_FP8


def describe_model(weights: Weights, *, served_name: str | None) -> ServedModel:
    """Read the limits of a model from its configuration."""
    config = weights.component_config("transformer", "config.json")
    _, rows, columns = config.get("axes_lens", (1024, 512, 512))
    is_embedded = weights.source == EMBEDDED
    return ServedModel(
        name=served_name or ("z-image-embedded" if is_embedded else weights.source),
        revision=weights.revision,
        default_size=_EMBEDDED_SIZE if is_embedded else _NATIVE_SIZE,
        max_height=_EMBEDDED_MAX_SIDE if is_embedded else rows * SIZE_MULTIPLE,
        max_width=_EMBEDDED_MAX_SIDE if is_embedded else columns * SIZE_MULTIPLE,
        forward_cost=_forward_cost(config),
        denoiser_memory=_denoiser_memory(config, DENOISER_BF16),
        eight_bit_memory=_denoiser_memory(config, DENOISER_FP8),
    )


def _forward_cost(config: Mapping[str, Any]) -> ForwardCost:
    """Count the weights that a joint token passes: projections, and a feed-forward of 8/3."""
    dim, num_layers = config.get("dim", 3840), config.get("n_layers", 30)
    num_parameters = num_layers * 12 * dim**2
    return for_transformer(dim, num_layers, num_parameters)


def _denoiser_memory(config: Mapping[str, Any], model: PeakMemoryModel) -> PeakMemoryModel:
    num_layers = config.get("n_layers", 30) + 2 * config.get("n_refiner_layers", 2)
    return scale_denoiser(dim=config.get("dim", 3840), num_layers=num_layers, model=model)
