"""Which pool draws a picture: decisions over plain data, no Ray."""
