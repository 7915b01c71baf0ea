"""The decoder half of diffusers' `AutoencoderKL`, over exchangeable operations."""

from typing import Any

from torch import Tensor

from pipeline.vae.planes import Plane, PlaneOps
from pipeline.vae.segments import require_plain


class DecoderNetwork:
    """Latents to colours, in the order of diffusers' `Decoder`.

    Raises:
        ValueError: If the decoder is not made of SiLU, GroupNorm and plain resnets.
    """

    def __init__(self, vae: Any, ops: PlaneOps) -> None:
        self._decoder = vae.decoder
        self._post_quant_conv = vae.post_quant_conv
        self._ops = ops
        for block in (vae.decoder.mid_block, *vae.decoder.up_blocks):
            for resnet in block.resnets:
                require_plain(resnet)

    def __call__(self, latents: Tensor) -> Tensor:
        """Turn [1, 16, h, w] latents at the VAE's scale into [1, 3, H, W], about -1 to 1."""
        ops, decoder = self._ops, self._decoder
        plane = self.open(latents)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                plane = self._run_resnet(resnet, plane)
            for upsampler in block.upsamplers or ():
                plane = ops.upsample(upsampler, plane)
        normed = ops.norm(decoder.conv_norm_out, plane, overwrites=True)
        return ops.finish(decoder.conv_out, normed)

    def open(self, latents: Tensor) -> Plane:
        """Run what sees the whole plane whatever follows: all before the up blocks."""
        if self._post_quant_conv is not None:
            latents = self._post_quant_conv(latents)
        plane = self._ops.convolve(self._decoder.conv_in, Plane(latents))
        block = self._decoder.mid_block
        plane = self._run_resnet(block.resnets[0], plane)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            if attention is not None:
                plane = self._ops.attend(attention, plane)
            plane = self._run_resnet(resnet, plane)
        return plane

    def _run_resnet(self, resnet: Any, plane: Plane) -> Plane:
        ops = self._ops
        opened = ops.convolve(resnet.conv1, ops.norm(resnet.norm1, plane))
        normed = ops.norm(resnet.norm2, opened, overwrites=True)
        del opened
        closed = ops.convolve(resnet.conv2, normed)
        del normed
        if resnet.conv_shortcut is not None:
            plane = ops.convolve(resnet.conv_shortcut, plane)
        return ops.add(closed, plane)
