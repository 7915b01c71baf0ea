"""The three networks of the embedded model: production classes at a small size."""

from typing import Final

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from pipeline.embedded.training.tokenizer import VOCABULARY_SIZE
from pipeline.latents import LATENT_CHANNELS
from pipeline.schedule import Z_IMAGE_SHIFT

_CAPTION_DIM: Final = 192
_ENCODER_LAYERS: Final = 4


def build_vae() -> AutoencoderKL:
    """Build the VAE, configured as FLUX's: attention in the middle, no quantising convolutions."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=256,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
    )


def build_transformer() -> ZImageTransformer2DModel:
    """Build the denoiser's network. Its RoPE table holds 1,024 positions of captions."""
    return ZImageTransformer2DModel(
        dim=256,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=_CAPTION_DIM,
        axes_dims=[16, 24, 24],
        axes_lens=[1024, 512, 512],
    )


def build_text_encoder() -> Qwen3Model:
    """Build the text encoder, of which Z-Image reads the second-last hidden state."""
    config = Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=_CAPTION_DIM,
        intermediate_size=512,
        num_hidden_layers=_ENCODER_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=48,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        use_cache=False,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen3Model(config)


def drop_unread_layer(text_encoder: Qwen3Model) -> Qwen3Model:
    """Cut the encoder off where Z-Image reads it: before the last layer and the norm.

    The last hidden state of what is left is `hidden_states[-2]` of the whole.
    """
    text_encoder.layers = text_encoder.layers[:-1]
    text_encoder.config.num_hidden_layers -= 1
    text_encoder.norm = nn.Identity()
    return text_encoder


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build the scheduler with the settings of Z-Image-Turbo."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=Z_IMAGE_SHIFT)
