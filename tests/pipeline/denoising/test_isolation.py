"""One item's failure, and the lack of memory, cost nobody else a step."""

import math
import weakref

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from pipeline.acceleration.attention import PerItemAttention, SequenceLayout
from pipeline.denoising.isolation import IsolatedForward
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.errors import OutOfMemoryError, PipelineError, ReplicaFailedError
from tests.pipeline.denoising.conftest import BuildLoop
from tests.pipeline.denoising.observers import Recorder
from tests.pipeline.denoising.tiny import build_request, draw_encoding


class SmallMemoryAttention(PerItemAttention):
    """Runs out of memory above a number of rows, as a small card would."""

    def __init__(self, max_rows: int) -> None:
        super().__init__()
        self.max_rows = max_rows

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        if layout.num_rows > self.max_rows:
            raise torch.OutOfMemoryError(f"{layout.num_rows} rows")
        return super().__call__(query, key, value, layout)


class BrokenDeviceAttention(PerItemAttention):
    """Fails as a device does after an illegal access: for good."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        raise torch.AcceleratorError("an illegal memory access was encountered")


class CudaMemoryError(torch.AcceleratorError):
    """What CUDA itself says where torch's allocator was not asked."""

    error_code = 2


class FullAttention(PerItemAttention):
    """Runs out of memory, and then fails as a library does that finds none."""

    def __init__(self) -> None:
        super().__init__()
        self._num_calls = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        self._num_calls += 1
        if self._num_calls == 1:
            raise torch.OutOfMemoryError("first")
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")


class ForgetfulAttention(PerItemAttention):
    """Fails, and keeps a reference to what it had computed by then that keeps nothing alive."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        self.computed: list[weakref.ref[Tensor]] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        computed = query + key
        self.computed.append(weakref.ref(computed))
        raise self._error


def _items(transformer: PackedTransformer, count: int) -> list[PackedItem]:
    caption = transformer.encode_caption(draw_encoding(9).prompt_embeds)
    generator = torch.Generator().manual_seed(0)
    return [PackedItem(torch.randn(16, 16, 16, generator=generator), 0.5, caption)] * count


def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    model: ZImageTransformer2DModel, transformer: PackedTransformer
) -> None:
    small = PackedTransformer(model, SmallMemoryAttention(max_rows=200))
    forward = IsolatedForward(small)
    items = _items(small, 8)

    velocities = forward.launch(items, [1.0] * 8).wait()

    expected = transformer.predict_velocity(items[:1])[0]
    assert len(velocities) == 8
    assert all(torch.equal(velocity, expected) for velocity in velocities)  # type: ignore[arg-type]


def test_the_bound_is_remembered(model: ZImageTransformer2DModel) -> None:
    small = PackedTransformer(model, SmallMemoryAttention(max_rows=200))
    forward = IsolatedForward(small)

    forward.launch(_items(small, 8), [1.0] * 8).wait()

    assert forward.max_units == 2.0


def test_an_item_that_does_not_fit_alone_bounds_nobody_else(
    model: ZImageTransformer2DModel,
) -> None:
    small = PackedTransformer(model, SmallMemoryAttention(max_rows=200))
    forward = IsolatedForward(small)
    large = PackedItem(torch.ones(16, 40, 40), 0.5, _items(small, 1)[0].caption)

    outcomes = forward.launch([*_items(small, 3), large], [1.0, 1.0, 1.0, 6.0]).wait()

    assert [type(outcome) for outcome in outcomes] == [Tensor] * 3 + [OutOfMemoryError]
    assert forward.max_units == math.inf


def test_the_bound_grows_once_memory_has_sufficed_for_long(
    model: ZImageTransformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.denoising.isolation._STEPS_TO_GROW", 3)
    attention = SmallMemoryAttention(max_rows=200)
    forward = IsolatedForward(PackedTransformer(model, attention))
    items = _items(PackedTransformer(model, PerItemAttention()), 8)
    forward.launch(items[:4], [1.0] * 4).wait()
    bounds = [forward.max_units]

    attention.max_rows = 10_000
    for _ in range(6):
        forward.launch(items[:2], [1.0] * 2).wait()
        bounds.append(forward.max_units)

    assert bounds == [2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 8.0]


def test_a_bound_that_grew_in_vain_is_tried_again_after_twice_as_long(
    model: ZImageTransformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.denoising.isolation._STEPS_TO_GROW", 2)
    forward = IsolatedForward(PackedTransformer(model, SmallMemoryAttention(max_rows=200)))
    items = _items(PackedTransformer(model, PerItemAttention()), 8)
    bounds = []
    for _ in range(12):
        num_items = int(min(forward.max_units, 8))
        forward.launch(items[:num_items], [1.0] * num_items).wait()
        bounds.append(forward.max_units)

    assert [step for step, bound in enumerate(bounds) if bound == 4.0] == [2, 7]


def test_an_item_that_does_not_fit_alone_says_so(model: ZImageTransformer2DModel) -> None:
    small = PackedTransformer(model, SmallMemoryAttention(max_rows=50))
    caption = PackedTransformer(model, PerItemAttention()).encode_caption(torch.ones(9, 32))
    item = PackedItem(torch.ones(16, 16, 16), 0.5, caption)

    [outcome] = IsolatedForward(small).launch([item], [1.0]).wait()

    assert isinstance(outcome, OutOfMemoryError)
    assert str(outcome) == "latents must fit on the device, got [16, 16, 16]"


def test_a_retry_that_fails_otherwise_is_the_items_own_failure(
    model: ZImageTransformer2DModel, transformer: PackedTransformer
) -> None:
    full = PackedTransformer(model, FullAttention())

    [outcome] = IsolatedForward(full).launch(_items(transformer, 1), [1.0]).wait()

    assert isinstance(outcome, PipelineError)
    assert "CUBLAS_STATUS_ALLOC_FAILED" in str(outcome)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), CudaMemoryError("full"), RuntimeError("broken")],
)
def test_a_failure_keeps_nothing_of_what_was_computed(
    model: ZImageTransformer2DModel, transformer: PackedTransformer, error: Exception
) -> None:
    attention = ForgetfulAttention(error)
    failing = PackedTransformer(model, attention)

    [outcome] = IsolatedForward(failing).launch(_items(transformer, 1), [1.0]).wait()

    assert isinstance(outcome, PipelineError)
    assert outcome.__cause__ is error
    assert [reference() for reference in attention.computed] == [None] * len(attention.computed)


def test_an_item_at_fault_is_found_and_fails_alone(transformer: PackedTransformer) -> None:
    good = _items(transformer, 1)[0]
    odd_residual = {0: torch.ones(7, 7)}
    bad = PackedItem(good.latents, 0.5, good.caption, residuals=odd_residual)

    first, failure, last = IsolatedForward(transformer).launch([good, bad, good], [1.0] * 3).wait()

    expected = transformer.predict_velocity([good])[0]
    assert isinstance(failure, PipelineError)
    assert isinstance(failure.__cause__, RuntimeError)
    assert torch.equal(first, expected)  # type: ignore[arg-type]
    assert torch.equal(last, expected)  # type: ignore[arg-type]


def test_a_loop_short_of_memory_loses_no_request(
    model: ZImageTransformer2DModel, build_loop: BuildLoop
) -> None:
    loop = build_loop(PackedTransformer(model, SmallMemoryAttention(max_rows=200)))
    recorders = [Recorder() for _ in range(8)]
    requests = [build_request(f"request-{index}", seed=index) for index in range(8)]

    for request, recorder in zip(requests, recorders, strict=True):
        loop.submit(request, recorder)

    together = [recorder.result().latents for recorder in recorders]
    alone = [build_loop().denoise(request).latents for request in requests]
    assert all(map(torch.equal, together, alone))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_broken_device_fails_everyone_and_the_loop_says_why(
    model: ZImageTransformer2DModel, build_loop: BuildLoop
) -> None:
    loop = build_loop(PackedTransformer(model, BrokenDeviceAttention()))
    recorder = Recorder()

    loop.submit(build_request("unlucky"), recorder)

    assert isinstance(recorder.last(), ReplicaFailedError)
    assert not loop.close()
    assert "an illegal memory access" in str(loop.failure)
    with pytest.raises(ReplicaFailedError, match="an illegal memory access"):
        loop.submit(build_request("next"), Recorder())
