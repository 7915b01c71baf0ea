"""A model is pinned to a revision, and only safetensors are read."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from pipeline.errors import WeightsError
from pipeline.networks import load_language_model, load_transformer, load_vae
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


LOADERS = {
    "transformer": load_transformer,
    "vae": load_vae,
    "text_encoder": load_language_model,
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("damage", ["missing", "shape", "cut"])
def test_a_component_without_all_of_its_tensors_is_refused(
    copy: Path, name: str, damage: str
) -> None:
    file = next((copy / name).glob("*.safetensors"))
    tensors = load_file(file)
    last = sorted(key for key in tensors if not key.startswith("encoder."))[-1]
    if damage == "missing":
        del tensors[last]
    if damage == "shape":
        tensors[last] = torch.zeros(*tensors[last].shape, 2)
    save_file(tensors, file, metadata={"format": "pt"})
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])

    with pytest.raises(WeightsError, match=name):
        LOADERS[name](resolve_weights(str(copy)), device=torch.device("cpu"), dtype=torch.float32)


def refuse_connection(*arguments: object, **options: object) -> None:
    raise RuntimeError("the transport's own kind of error")


def test_a_hub_that_cannot_be_asked_is_named_whatever_its_transport_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(HfApi, "model_info", refuse_connection)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(WeightsError, match="the hub could not be asked"):
        resolve_weights("somebody/a-model")


def test_what_was_fetched_is_used_where_the_hub_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    fetched: list[dict[str, object]] = []

    def find(source: str, **options: object) -> str:
        fetched.append(options)
        return str(tmp_path / commit)

    shutil.copytree(tiny_model, tmp_path / commit)
    monkeypatch.setattr(HfApi, "model_info", refuse_connection)
    monkeypatch.setattr("pipeline.weights.snapshot_download", find)

    assert resolve_weights("somebody/a-model").revision == commit
    assert fetched[0]["local_files_only"] is True
    assert resolve_weights("somebody/a-model", commit).revision == commit


def test_a_folder_within_a_component_is_not_part_of_the_revision(
    tiny_model: Path, copy: Path
) -> None:
    (copy / "vae" / "notes").mkdir()

    assert resolve_weights(str(copy)).revision == resolve_weights(str(tiny_model)).revision
