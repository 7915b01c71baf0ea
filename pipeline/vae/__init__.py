"""The VAE decoder in tiles, with the whole picture's statistics."""
