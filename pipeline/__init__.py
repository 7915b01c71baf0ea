"""The model: stages, step loop, tiles and weights. Knows nothing of Ray, HTTP or S3."""
