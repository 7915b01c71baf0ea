"""Webhooks: signed messages about jobs to hosts that the operator allows."""
