"""Faster ways to compute what the transformer computes."""
