"""What no replica could do is told before one starts."""

from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main
from deployments.config_file import ConfigurationError, validate_config
from deployments.served_model import ServedModel, describe_model
from deployments.stage_checks import check_stages
from pipeline.weights import EMBEDDED, resolve_weights


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return describe_model(resolve_weights(EMBEDDED), served_name=None)


def _on_cpu(**step_loop: str) -> dict[str, Any]:
    return {"pools": [{}, {"name": "b", "step_loop": step_loop}]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"pools": [{"accelerator": "H9000"}]},
            r"pools\.0\.accelerator must be one of CPU, .*, got 'H9000'",
        ),
        (
            {"pools": [{}, {"name": "b", "profile": "h800", "memory_gib": 0.001}]},
            r"pools\.1: memory_gib of pool b must be at least .*, got 0\.00",
        ),
        (
            _on_cpu(kernels="fused"),
            r"pools\.1\.step_loop\.kernels must be auto or modules on a CPU, got 'fused'",
        ),
        (
            _on_cpu(precision="int8"),
            r"pools\.1\.step_loop\.precision must be auto on a CPU, got 'int8'",
        ),
        (
            {"text_encoder": {"precision": "float8", "device": "cpu", "num_gpus": 1}},
            r"text_encoder\.precision must be auto on a CPU, got 'float8'",
        ),
        (
            {"vae_decoder": {"kernels": "fused"}},
            r"vae_decoder\.kernels must be auto or modules on a CPU, got 'fused'",
        ),
    ],
)
def test_what_no_replica_could_do_is_refused_by_its_key(
    values: dict[str, Any], message: str, model: ServedModel
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        check_stages(validate_config(values), model, has_gpu=False)


@pytest.mark.parametrize(
    ("stage", "has_gpu"),
    [
        ({"num_gpus": 1}, False),
        ({"device": "cuda"}, False),
        ({}, True),
    ],
)
def test_a_stage_that_may_get_a_gpu_may_use_it(
    stage: dict[str, Any], has_gpu: bool, model: ServedModel
) -> None:
    config = validate_config({"text_encoder": {"kernels": "fused", "precision": "int8", **stage}})

    check_stages(config, model, has_gpu=has_gpu)


def test_check_tells_each_mistake_in_a_line(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZIMAGE_POOLS", "[{accelerator: H9000}, {name: b, accelerator: H9001}]")

    assert main(["check", "--model", str(tiny_model), "--store", str(tmp_path / "images")]) == 1

    printed = capsys.readouterr().out
    assert printed.count("wrong: pools.") == 2
