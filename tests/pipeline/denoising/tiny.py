"""The real transformer class at a tiny size, and requests for it."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor

from pipeline.acceleration.attention import build_attention
from pipeline.denoising.transformer import PackedTransformer
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, ImageSize, Priority, PromptEncoding

CAPTION_DIM = 32


def build_tiny_transformer(
    dtype: torch.dtype = torch.float32, *, dim: int = 64, n_heads: int = 2
) -> ZImageTransformer2DModel:
    """Every parameter is random and none is zero, the learned pads included."""
    model = ZImageTransformer2DModel(
        dim=dim,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        cap_feat_dim=CAPTION_DIM,
        axes_dims=[8, 12, 12],
        axes_lens=[1024, 512, 512],
    )
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4
            parameter.copy_(drawn / fan_in**0.5 + (parameter.ndim == 1))
    return model.to(dtype).eval()


def pack(model: ZImageTransformer2DModel) -> PackedTransformer:
    """Put the model behind the packed forward, on the CPU."""
    return PackedTransformer(model, build_attention("sdpa", torch.device("cpu")))


def draw_encoding(num_tokens: int, *, seed: int = 0) -> PromptEncoding:
    """Draw prompt embeddings."""
    generator = torch.Generator().manual_seed(1000 * seed + num_tokens)
    return PromptEncoding(torch.randn(num_tokens, CAPTION_DIM, generator=generator))


def build_request(
    request_id: str,
    *,
    height: int = 64,
    width: int = 64,
    num_tokens: int = 9,
    seed: int = 0,
    num_inference_steps: int = 4,
    priority: Priority = Priority.INTERACTIVE,
    timeout_s: float | None = None,
    num_previews: int = 0,
) -> DenoiseRequest:
    """Build a small request."""
    return DenoiseRequest(
        id=request_id,
        encoding=draw_encoding(num_tokens, seed=seed),
        size=ImageSize(height, width),
        seed=seed,
        num_inference_steps=num_inference_steps,
        priority=priority,
        timeout_s=timeout_s,
        num_previews=num_previews,
    )


class StockDenoiser:
    """diffusers' own pipeline around the same weights, to latents."""

    def __init__(self, model: ZImageTransformer2DModel) -> None:
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            norm_num_groups=4,
        )
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
        self._pipeline = ZImagePipeline(scheduler, vae, None, None, model)
        self._pipeline.set_progress_bar_config(disable=True)

    def denoise(self, request: DenoiseRequest) -> Tensor:
        """Return [1, 16, H/8, W/8] latents."""
        latents: Tensor = self._pipeline(
            prompt_embeds=[request.encoding.prompt_embeds],
            height=request.size.height,
            width=request.size.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=0.0,
            latents=draw_noise(request.size, seed=request.seed),
            output_type="latent",
        ).images
        return latents
