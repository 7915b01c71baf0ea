"""The denoiser: how noise becomes latents, on one card or on several."""
