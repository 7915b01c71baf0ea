"""Which pool draws a picture, and which of its replicas: decisions over plain data, no Ray."""
