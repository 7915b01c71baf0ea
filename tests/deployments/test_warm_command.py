"""`zimage-serve warm` refuses what it cannot do, and says what it would load."""

from pathlib import Path

import pytest
import torch

from deployments.cli import main
from deployments.commands.warm import plan_stages
from deployments.config import AppConfig
from deployments.config_file import ConfigurationError
from deployments.loading import build_loader
from pipeline.weights import EMBEDDED, resolve_weights


def test_a_folder_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warm"]) == 1
    assert "kernel_cache.folder must name a folder" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIMAGE_KERNEL_CACHE__FOLDER", str(tmp_path))

    assert main(["warm"]) == 1
    assert "on a GPU" in capsys.readouterr().err


def test_every_stage_is_loaded_by_its_name() -> None:
    config = AppConfig.model_validate({"pools": [{"name": "big"}, {"name": "small"}]})
    load = build_loader(config, resolve_weights(EMBEDDED))

    assert list(plan_stages(config, load, None)) == ["text_encoder", "big", "small", "vae_decoder"]
    assert list(plan_stages(config, load, ["small"])) == ["small"]
    with pytest.raises(ConfigurationError, match=r"--only must name .*, got huge"):
        plan_stages(config, load, ["huge"])


def test_a_bucket_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="folder must be given with s3"):
        AppConfig.model_validate({"kernel_cache": {"s3": {"bucket": "kernels"}}})
