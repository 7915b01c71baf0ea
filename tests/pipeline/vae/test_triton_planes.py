"""Fused kernels over planes compute what PyTorch computes.

Without a GPU they run in Triton's interpreter, see `tests/pipeline/denoising/test_triton_kernels`.
"""

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from interpreted_loops import INTERPRETED_LOOPS, RUNS_KERNELS
from torch import Tensor, nn

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds, or by `pip install`")
pytestmark = [RUNS_KERNELS, *INTERPRETED_LOOPS]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(64, 8, 8), (24, 5, 7), (128, 90, 70)]
"""Channels, height and width: one block, ragged ends, and chunks of several blocks."""


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Few chunks, so that small planes have chunks of several blocks."""
    from pipeline.vae import triton_planes

    monkeypatch.setattr(triton_planes, "_MAX_PARTS", 8)
    return triton_planes


def _draw(channels: int, height: int, width: int, *, seed: int = 0, mean: float = 0.0) -> Tensor:
    drawn = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return (drawn + mean).to(DEVICE).contiguous(memory_format=torch.channels_last)


def _vector(length: int, *, seed: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _norm(channels: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(8, channels, eps=1e-6).to(DEVICE).requires_grad_(False)
    norm.weight.copy_(1 + _vector(channels, seed=8) / 4)
    norm.bias.copy_(_vector(channels, seed=9))
    return norm


def _biased(plane: Tensor, bias: Tensor | None) -> Tensor:
    return plane if bias is None else plane + bias[:, None, None]


@pytest.mark.parametrize(("channels", "height", "width"), SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("activates", [False, True])
def test_norm(
    kernels: ModuleType, channels: int, height: int, width: int, has_bias: bool, activates: bool
) -> None:
    plane, norm = _draw(channels, height, width), _norm(channels)
    bias = [None, _vector(channels, seed=1)][has_bias]
    expected = norm(_biased(plane, bias))

    factor, term = kernels.merge(kernels.gather(plane, bias), norm, bias)
    applied = kernels.apply(plane, factor, term, activates=activates)

    torch.testing.assert_close(
        applied, [expected, F.silu(expected)][activates], atol=1e-5, rtol=1e-5
    )


def test_a_large_mean_hides_no_variance(kernels: ModuleType) -> None:
    plane, norm = _draw(64, 60, 40, mean=4096.0), _norm(64)
    expected = norm.double()(plane.double()).float()

    factor, term = kernels.merge(kernels.gather(plane), norm.float())

    # A plane of 4096 and more has steps of 2 ** -12, and so has `factor * plane + term`.
    torch.testing.assert_close(
        kernels.apply(plane, factor, term, activates=False), expected, atol=2e-3, rtol=1e-4
    )


def test_norm_in_place(kernels: ModuleType) -> None:
    plane, norm = _draw(64, 60, 40), _norm(64)
    factor, term = kernels.merge(kernels.gather(plane), norm)
    expected = kernels.apply(plane, factor, term, activates=True)

    applied = kernels.apply(plane, factor, term, activates=True, overwrites=True)

    assert applied.data_ptr() == plane.data_ptr()
    assert torch.equal(applied, expected)


def test_a_window_of_a_plane(kernels: ModuleType) -> None:
    whole, norm = _draw(64, 30, 40), _norm(64)
    window = whole[..., 3:27, 5:31]
    expected = F.silu(norm(window.contiguous()))
    untouched = whole.clone()

    factor, term = kernels.merge(kernels.gather(window), norm)
    applied = kernels.apply(window, factor, term, activates=True, overwrites=True)

    torch.testing.assert_close(applied, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(whole, untouched)


@pytest.mark.parametrize(("channels", "height", "width"), SHAPES)
@pytest.mark.parametrize("has_biases", [False, True])
def test_add(kernels: ModuleType, channels: int, height: int, width: int, has_biases: bool) -> None:
    plane, residual = _draw(channels, height, width), _draw(channels, height, width, seed=1)
    norm = _norm(channels)
    bias, residual_bias = ([None, _vector(channels, seed=seed)][has_biases] for seed in (2, 3))
    expected = _biased(plane, bias) + _biased(residual, residual_bias)

    summed, parts = kernels.add_and_gather(plane, residual, bias, residual_bias)
    factor, term = kernels.merge(parts, norm)

    torch.testing.assert_close(summed, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        kernels.apply(summed, factor, term, activates=False), norm(expected), atol=1e-5, rtol=1e-5
    )


def test_add_a_window_of_a_plane(kernels: ModuleType) -> None:
    plane, residual = _draw(64, 24, 26), _draw(64, 30, 40, seed=1)[..., 3:27, 5:31]
    expected = plane + residual

    summed, _ = kernels.add_and_gather(plane, residual)

    assert torch.equal(summed, expected)


@pytest.mark.parametrize(("channels", "height", "width"), [(64, 4, 4), (24, 5, 7), (128, 45, 35)])
def test_upsampling_by_phases(kernels: ModuleType, channels: int, height: int, width: int) -> None:
    plane, norm = _draw(32, height, width), _norm(channels)
    weight = _draw(channels * 32, 3, 3, seed=1).reshape(channels, 32, 3, 3) / 16
    bias = _vector(channels, seed=2)
    expected = F.conv2d(F.interpolate(plane, scale_factor=2.0), weight, bias, padding=1)

    phases = F.conv2d(plane, kernels.subpixel_weight(weight), padding=1)
    doubled, parts = kernels.interleave_and_gather(phases, bias)
    factor, term = kernels.merge(parts, norm)

    # A GPU convolves float32 as TF32, which has ten bits of mantissa.
    bound = 1e-2 if DEVICE.type == "cuda" else 1e-5
    torch.testing.assert_close(doubled, expected, atol=bound, rtol=bound)
    torch.testing.assert_close(
        kernels.apply(doubled, factor, term, activates=False), norm(doubled), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("columns", [16, 4096, 5000])
def test_softmax(kernels: ModuleType, columns: int) -> None:
    scores = _draw(1, 6, columns).reshape(6, columns) * 30

    weights = kernels.softmax(scores, 0.25, torch.float32)

    torch.testing.assert_close(weights, (scores * 0.25).softmax(1), atol=1e-6, rtol=1e-5)


def test_planes_with_separate_channels_are_refused(kernels: ModuleType) -> None:
    with pytest.raises(ValueError, match="must be one picture in channels_last"):
        kernels.gather(_draw(64, 8, 8).contiguous(memory_format=torch.contiguous_format))
