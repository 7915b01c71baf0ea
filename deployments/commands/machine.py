"""What suits a service that has one machine for itself."""

from typing import Any, Final

import torch

LOCAL_DRAIN_S: Final = 2.0
"""Nobody else drains a laptop's replicas: Ctrl-C has to be quick."""

_GPU_SHARES: Final = {"text_encoder": 0.25, "pools": 0.5, "vae_decoder": 0.25}
"""All three stages on one card."""


def local_defaults(base_url: str) -> dict[str, Any]:
    """Return configuration defaults for one machine, with its GPU if it has one."""
    has_gpu = torch.cuda.is_available()
    stages: dict[str, dict[str, Any]] = {
        name: {
            "graceful_shutdown_timeout_s": LOCAL_DRAIN_S,
            **({"num_gpus": share} if has_gpu else {}),
        }
        for name, share in _GPU_SHARES.items()
    }
    return {
        "router": {"graceful_shutdown_timeout_s": LOCAL_DRAIN_S},
        # Where there is one machine, none can fall silent alone.
        "calls": {"by_value": "all"},
        "text_encoder": stages["text_encoder"],
        "pools": [stages["pools"]],
        "vae_decoder": stages["vae_decoder"],
        "store": {"base_url": base_url},
    }
