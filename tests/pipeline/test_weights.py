"""A model is pinned to a revision, and only safetensors are read."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.errors import WeightsError
from pipeline.networks import load_transformer, load_vae
from pipeline.weights import resolve_weights


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_a_folder_with_the_same_files_has_the_same_revision(tiny_model: Path, copy: Path) -> None:
    assert resolve_weights(str(tiny_model)).revision == resolve_weights(str(copy)).revision


def test_a_changed_tensor_changes_the_revision(tiny_model: Path, copy: Path) -> None:
    file = next((copy / "vae").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    assert resolve_weights(str(copy)).revision != resolve_weights(str(tiny_model)).revision


def test_a_component_needs_no_other(copy: Path) -> None:
    shutil.rmtree(copy / "transformer")
    shutil.rmtree(copy / "text_encoder")

    vae = load_vae(resolve_weights(str(copy)), device=torch.device("cpu"), dtype=torch.float32)

    assert vae.config.latent_channels == 16


def test_a_pickle_is_refused(copy: Path) -> None:
    file = next((copy / "transformer").glob("*.safetensors"))
    file.rename(file.with_name("diffusion_pytorch_model.bin"))

    with pytest.raises(WeightsError, match="transformer must hold safetensors files"):
        load_transformer(
            resolve_weights(str(copy)), device=torch.device("cpu"), dtype=torch.float32
        )


def test_another_pipeline_is_refused(copy: Path) -> None:
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))

    with pytest.raises(WeightsError, match="must be a ZImagePipeline, got 'FluxPipeline'"):
        resolve_weights(str(copy))


def test_another_scheduler_is_refused(copy: Path) -> None:
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "DDIMScheduler"}))

    with pytest.raises(WeightsError, match="must be FlowMatchEulerDiscreteScheduler"):
        resolve_weights(str(copy)).shift  # noqa: B018 - reading it is what is tested


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"needs .*model_index\.json"):
        resolve_weights(str(tmp_path))


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused() -> None:
    with pytest.raises(WeightsError, match="must be a folder or an id of the hub"):
        resolve_weights("/no/such/folder/at/all")
