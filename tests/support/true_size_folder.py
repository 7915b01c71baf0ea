"""A folder in the hub's layout with seeded random weights at the true size, in shards."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from true_size import build_language_model, build_transformer, build_vae

from pipeline.embedded import EMBEDDED_MODEL

SHARD_SIZE = "5GB"


def write_true_size(folder: Path, device: torch.device, *, is_tiny: bool = False) -> None:
    """Build each network on the device and write it in bfloat16; tokenizer and schedule are copied.

    A tiny one has the same layout.
    """
    dtype = torch.bfloat16
    networks: dict[str, Any] = {
        "transformer": build_transformer(device, dtype, is_tiny=is_tiny),
        "text_encoder": build_language_model(device, dtype, is_tiny=is_tiny),
        "vae": build_vae(device, dtype, is_tiny=is_tiny, has_encoder=True),
    }
    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        writes = [
            pool.submit(partial(each.save_pretrained, folder / name, max_shard_size=SHARD_SIZE))
            for name, each in networks.items()
        ]
        for write in writes:
            write.result()
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(EMBEDDED_MODEL / name, folder / name)
    index = json.loads((EMBEDDED_MODEL / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")


def component_bytes(folder: Path, name: str) -> int:
    """Return the bytes of a component's weights."""
    return sum(path.stat().st_size for path in (folder / name).glob("*.safetensors"))
