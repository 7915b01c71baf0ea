"""One call's pictures, over stages that a test scripts."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import SteppedStages
from jobs_app import wait_until
from torch import Tensor

from cluster.cost import for_transformer
from cluster.errors import StoreConfigurationError
from cluster.storage import FolderImageStore, FolderStoreOptions
from deployments.errors import DeadlineExceededError
from deployments.generation import Generation, ImagesOrder
from deployments.pool_choice import FirstPoolChooser, Route
from deployments.served_model import ServedModel
from deployments.stages import Denoised, FileOrder, ImageFile
from deployments.store_threads import StoreThreads
from pipeline.errors import OutOfMemoryError, ReplicaFullError
from pipeline.image_file import OutputFormat
from pipeline.request import DenoiseRequest, ImageSize, Priority, RenderPath, StepEvent

SIZE = ImageSize(64, 64)


class ScriptedStages(SteppedStages):
    """Draws at once, but for what a test makes it do before."""

    def __init__(self) -> None:
        super().__init__()
        self.allow(1000)
        self.full_for: list[float] = []
        """Seconds that the next denoisers take to say that they are full."""
        self.broken_seed: int | None = None
        """The picture that cannot be decoded, when all others are stored."""
        self.timeouts_s: list[float | None] = []
        """What denoisers were given."""

    async def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        self.timeouts_s.append(request.timeout_s)
        if self.full_for:
            await asyncio.sleep(self.full_for.pop())
            raise ReplicaFullError("full")
        async for event in super().denoise(pool, request, yields_steps=yields_steps):
            yield event

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        if order.provenance.seed == self.broken_seed:
            await asyncio.sleep(0.3)
            raise OutOfMemoryError("no room")
        return await super().decode(latents, order)


@pytest.fixture
def stages() -> ScriptedStages:
    return ScriptedStages()


@pytest.fixture
def store(tmp_path: Path) -> FolderImageStore:
    return FolderImageStore(FolderStoreOptions(folder=tmp_path, base_url="http://test"))


@pytest.fixture
def generation(stages: ScriptedStages, store: FolderImageStore) -> Generation:
    chooser = FirstPoolChooser({"default": RenderPath.FULL_IMAGE})
    cost = for_transformer(64, 2, 1000)
    model = ServedModel("m", "r" * 40, SIZE, 1024, 1024, cost)
    return Generation(stages, chooser, store, model, threads=StoreThreads(), key_prefix="images")


def order_of(num_images: int = 1, **changes: Any) -> ImagesOrder:
    order = ImagesOrder(
        id="img-0",
        request_id="r",
        accepted=datetime.now(UTC),
        prompt="x",
        num_images=num_images,
        size=SIZE,
        seed=7,
        num_inference_steps=2,
        priority=Priority.INTERACTIVE,
        timeout_s=30.0,
        pinned_path=None,
        output_format=OutputFormat.PNG,
        output_compression=None,
    )
    return replace(order, **changes)


async def test_a_replica_that_is_asked_again_is_told_what_is_left(
    generation: Generation, stages: ScriptedStages
) -> None:
    stages.full_for = [0.2, 0.2]
    await generation.draw(order_of(timeout_s=30.0))

    first, second, third = [timeout_s or 0.0 for timeout_s in stages.timeouts_s]
    assert first - 0.2 > second > third + 0.2


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A store that takes no file until the event is set."""
    put, goes_on = FolderImageStore.put, threading.Event()

    def put_later(*args: Any, **options: Any) -> None:
        goes_on.wait()
        put(*args, **options)

    monkeypatch.setattr(FolderImageStore, "put", put_later)
    yield goes_on
    goes_on.set()


async def test_a_store_that_hangs_holds_no_other_thread(
    generation: Generation, hang: threading.Event
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    with pytest.raises(DeadlineExceededError):
        await generation.draw(order_of(4, timeout_s=0.3))

    try:
        async with asyncio.timeout(5):
            await asyncio.to_thread(time.monotonic)
    finally:
        hang.set()


async def test_taking_note_of_a_route_is_part_of_a_calls_time(generation: Generation) -> None:
    async def wait(_: Route) -> None:
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceededError):
        await generation.draw(order_of(timeout_s=0.1), on_route=wait)


def count_files(folder: Path) -> int:
    return len(list(folder.rglob("*.png")))


async def test_what_was_stored_of_a_call_that_fails_is_deleted(
    generation: Generation, stages: ScriptedStages, tmp_path: Path
) -> None:
    stages.broken_seed = order_of().seed + 2
    drawing = asyncio.create_task(generation.draw(order_of(4)))
    await wait_until(lambda: count_files(tmp_path) == 3)
    with pytest.raises(OutOfMemoryError):
        await drawing

    await wait_until(lambda: count_files(tmp_path) == 0)


async def test_a_file_that_comes_too_late_for_its_call_is_deleted(
    generation: Generation, hang: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(FolderImageStore, "delete", lambda _, key: deleted.append(key))
    with pytest.raises(DeadlineExceededError):
        await generation.draw(order_of(2, timeout_s=0.3))
    hang.set()

    await wait_until(lambda: len(deleted) == 2)
    assert count_files(tmp_path) == 2


async def test_a_store_that_deletes_nothing_hides_no_error(
    generation: Generation,
    stages: ScriptedStages,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise StoreConfigurationError("no right to delete")

    monkeypatch.setattr(FolderImageStore, "delete", refuse)
    stages.broken_seed = order_of().seed + 1
    with pytest.raises(OutOfMemoryError):
        await generation.draw(order_of(2))

    await wait_until(lambda: "no right to delete" in caplog.text)


async def test_what_may_be_drawn_again_into_the_same_keys_is_not_deleted(
    generation: Generation, stages: ScriptedStages, tmp_path: Path
) -> None:
    stages.broken_seed = order_of().seed + 1
    with pytest.raises(OutOfMemoryError):
        await generation.draw(order_of(2, may_come_again=True))

    await asyncio.sleep(0.1)
    assert count_files(tmp_path) == 1
