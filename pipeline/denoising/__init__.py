"""The denoiser that serves many requests at once."""
