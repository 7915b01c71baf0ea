"""Memory of the true VAE's tiled decode in bfloat16, counted on fake tensors: no GPU needed.

    python tests/benchmarks/tiled_vae_memory.py 1024 2048 3072 4096

Convolution workspaces and the weights (0.1 GiB) are not in the figures.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from allocation_tracker import DEVICE, HOST, track_allocations
from true_size import build_vae

from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions


def main() -> None:
    print("pixels   parked             device GiB   host GiB")
    for pixels in map(int, sys.argv[1:] or ["1024", "2048"]):
        print_row(pixels, "beyond 10 KiB/latent", VaeTilingOptions())
        print_row(pixels, "never", VaeTilingOptions(device_bytes_per_latent=ALL_ON_DEVICE))


def print_row(pixels: int, name: str, options: VaeTilingOptions) -> None:
    vae = build_vae(torch.device("cpu"), torch.bfloat16)
    latents = torch.empty(1, 16, pixels // 8, pixels // 8)
    decoder = TiledVaeDecoder(vae, options)
    peaks = track_allocations(vae, lambda: decoder.decode_image(latents), dtype=torch.bfloat16)
    device, host = (peaks[place] / 2**30 for place in (DEVICE, HOST))
    print(f"{pixels:6}   {name:20} {device:8.2f} {host:10.2f}", flush=True)


if __name__ == "__main__":
    main()
