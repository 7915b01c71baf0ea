"""The step loop on the real transformer: who joins, leaves, fails and waits."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from pipeline.denoising.batching import BatchingLimits
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.preview import LatentPreview
from pipeline.denoising.transformer import PackedTransformer
from pipeline.denoising.work import DenoisingRun, Outcome, VelocityRequest, VelocityResult
from pipeline.errors import (
    CancelledError,
    DeadlineError,
    InvalidRequestError,
    NumericalError,
    OutOfMemoryError,
    ReplicaFullError,
)
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, DenoiseResult, Priority, PromptEncoding, StepEvent
from pipeline.schedule import Schedule, build_schedule
from tests.pipeline.denoising.conftest import BuildLoop
from tests.pipeline.denoising.observers import HandClock, Recorder
from tests.pipeline.denoising.tiny import StockDenoiser, build_request, draw_encoding

ONE_AT_A_TIME = BatchingLimits(max_items=1)


def _draw_requests(count: int) -> list[DenoiseRequest]:
    """Sides of 64 to 512 pixels, 1 to 70 prompt tokens, 1 to 12 steps."""
    draw = random.Random(4)
    return [
        build_request(
            f"request-{index}",
            height=16 * draw.randint(4, 32),
            width=16 * draw.randint(4, 32),
            num_tokens=draw.randint(1, 70),
            seed=index,
            num_inference_steps=draw.randint(1, 12),
            priority=draw.choice(list(Priority)),
        )
        for index in range(count)
    ]


def _submit_in_waves(loop: StepLoop, requests: list[DenoiseRequest]) -> list[Recorder]:
    """Submit eight at once; each that ends its first step brings one of the others along."""
    waiting = iter(requests[8:])
    recorders = {request.id: Recorder() for request in requests}

    def bring_next() -> None:
        for request in waiting:
            loop.submit(request, recorders[request.id])
            return

    for request in requests:
        recorders[request.id].at_step[1] = bring_next
    for request in requests[:8]:
        loop.submit(request, recorders[request.id])
    return [recorders[request.id] for request in requests]


def test_forty_requests_together_equal_each_alone_and_diffusers(
    model: ZImageTransformer2DModel, build_loop: BuildLoop
) -> None:
    requests = _draw_requests(40)
    recorders = _submit_in_waves(build_loop(), requests)
    together = [recorder.result().latents for recorder in recorders]

    alone = [build_loop().denoise(request).latents for request in requests]
    stock = [StockDenoiser(model).denoise(request) for request in requests]

    assert all(map(torch.equal, together, alone))
    assert max(float((a - b).abs().max()) for a, b in zip(together, stock, strict=True)) <= 1e-4


def test_eight_steps_are_eight_forwards_and_one_caption(
    model: ZImageTransformer2DModel, build_loop: BuildLoop
) -> None:
    forwards: list[object] = []
    captions: list[object] = []
    hooks = [
        model.layers[0].feed_forward.w2.register_forward_hook(lambda *_: forwards.append(_)),
        model.cap_embedder.register_forward_hook(lambda *_: captions.append(_)),
    ]

    build_loop().denoise(build_request("counted", num_inference_steps=8))
    [hook.remove() for hook in hooks]

    assert (len(forwards), len(captions)) == (8, 1)


def test_pictures_of_one_prompt_share_the_caption(
    model: ZImageTransformer2DModel, build_loop: BuildLoop
) -> None:
    captions: list[object] = []
    hook = model.cap_embedder.register_forward_hook(lambda *_: captions.append(_))
    loop, first, second = build_loop(), Recorder(), Recorder()
    first.at_step[1] = lambda: loop.submit(build_request("second", height=128), second)

    loop.submit(build_request("first"), first)
    first.result()
    second.result()
    hook.remove()

    assert len(captions) == 1


def test_a_device_that_was_idle_waits_for_a_caption_rather_than_for_its_key(
    model: ZImageTransformer2DModel, build_loop: BuildLoop, steps_ahead: int
) -> None:
    captions: list[object] = []
    hook = model.cap_embedder.register_forward_hook(lambda *_: captions.append(_))
    loop = build_loop()

    results = [loop.denoise(build_request(name)).latents for name in ("first", "second")]
    hook.remove()

    assert torch.equal(*results)
    assert len(captions) == 1 + steps_ahead


@pytest.mark.parametrize("joined_at", [1, 2, 3])
def test_a_request_joins_a_running_one_at_its_next_step(
    build_loop: BuildLoop, joined_at: int
) -> None:
    loop, joining = build_loop(), Recorder()
    late = build_request("late", num_inference_steps=2, seed=1)
    seen: list[int] = []
    running = Recorder(
        {
            joined_at: lambda: loop.submit(late, joining),
            joined_at + 2: lambda: seen.append(len(joining.events)),
        }
    )

    loop.submit(build_request("running", num_inference_steps=6), running)

    running.result()
    assert seen[0] >= 1
    assert torch.equal(joining.result().latents, build_loop().denoise(late).latents)


def test_a_cancelled_request_takes_no_further_step(build_loop: BuildLoop) -> None:
    loop = build_loop()
    cancelled = Recorder({2: lambda: loop.cancel("cancelled")})

    loop.submit(build_request("cancelled", num_inference_steps=12), cancelled)

    assert isinstance(cancelled.last(), CancelledError)
    assert len(cancelled.events) == 2
    assert loop.backlog().num_held == 0


def test_cancelling_what_is_not_held_says_so(build_loop: BuildLoop) -> None:
    assert not build_loop().cancel("nobody")


def test_a_step_that_raises_in_the_callers_code_cancels_the_request(build_loop: BuildLoop) -> None:
    def give_up(event: StepEvent) -> None:
        raise KeyError("the caller's own")

    loop = build_loop()

    with pytest.raises(KeyError, match="the caller's own"):
        loop.denoise(build_request("given up", num_inference_steps=50), give_up)
    assert loop.denoise(build_request("next", num_inference_steps=1)).latents.isfinite().all()


def test_a_loop_that_hangs_in_a_step_is_not_well(build_loop: BuildLoop) -> None:
    clock, seen = HandClock(), list[str]()
    loop = build_loop(clock=clock, max_step_s=600.0)

    def hang() -> None:
        before = loop.failure
        clock.advance(601.0)
        seen.extend((str(before), str(loop.failure)))

    hung = Recorder({2: hang})
    loop.submit(build_request("slow", num_inference_steps=4), hung)
    hung.result()
    loop.close()

    assert seen == ["None", "a step must end within 600 s, one runs for 601 s"]
    assert loop.failure is None


def test_a_request_of_nan_fails_alone(build_loop: BuildLoop) -> None:
    loop, poisoned, healthy = build_loop(), Recorder(), Recorder()
    request = build_request("healthy", num_inference_steps=8)
    nan = PromptEncoding(torch.full((9, 32), float("nan")))
    poison = DenoiseRequest("poison", nan, request.size, seed=1, num_inference_steps=8)

    loop.submit(request, healthy)
    loop.submit(poison, poisoned)

    assert isinstance(poisoned.last(), NumericalError)
    assert torch.equal(healthy.result().latents, build_loop().denoise(request).latents)


def test_a_step_that_failed_alone_leaves_nothing_behind_to_be_measured_later(
    build_loop: BuildLoop,
) -> None:
    idle_s = [0.0]
    loop, poisoned = build_loop(clock=lambda: time.monotonic() + idle_s[0]), Recorder()
    request = build_request("warm", num_inference_steps=4)
    loop.denoise(request)
    nan = PromptEncoding(torch.full((9, 32), float("nan")))
    loop.submit(DenoiseRequest("poison", nan, request.size, 1, num_inference_steps=8), poisoned)
    assert isinstance(poisoned.last(), NumericalError)

    # Whatever still ran is over when the loop finds nothing to do.
    time.sleep(0.2)
    idle_s[0] = 3600.0
    loop.denoise(replace(request, id="an hour later"))

    assert loop.backlog().forward_times[request.size].seconds < 60


def test_a_preview_that_cannot_be_drawn_costs_no_picture(build_loop: BuildLoop) -> None:
    broken = LatentPreview(torch.ones(3, 3), torch.zeros(3))
    loop, watched = build_loop(preview=broken), Recorder()
    request = build_request("watched", num_inference_steps=8, num_previews=3)

    loop.submit(request, watched)

    assert torch.equal(watched.result().latents, build_loop().denoise(request).latents)
    assert [event.preview for event in watched.events] == [None] * 8


class Scarce:
    """Raises for want of memory at its first calls, and works from then on."""

    def __init__(self, act: Callable[..., Any], num_failures: int) -> None:
        self._act = act
        self._num_failures = num_failures

    def __call__(self, *arguments: Any) -> Any:
        self._num_failures -= 1
        if self._num_failures >= 0:
            raise torch.OutOfMemoryError("full")
        return self._act(*arguments)


def test_memory_that_is_short_beside_the_forward_costs_a_second_try(
    build_loop: BuildLoop, transformer: PackedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ScarceSchedule(Schedule):
        def advance(self, latents: Tensor, velocity: Tensor, step: int) -> Tensor:
            stepped: Tensor = advance(self, latents, velocity, step)
            return stepped

    advance = Scarce(Schedule.advance, 1)
    request = build_request("short", num_inference_steps=3)
    expected = build_loop().denoise(request).latents
    loop = build_loop(schedule_of=lambda steps: ScarceSchedule(build_schedule(steps).sigmas))
    monkeypatch.setattr(transformer, "encode_caption", Scarce(transformer.encode_caption, 1))

    assert torch.equal(loop.denoise(request).latents, expected)


def test_memory_that_stays_short_beside_the_forward_is_told_as_that(
    build_loop: BuildLoop, transformer: PackedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer, "encode_caption", Scarce(transformer.encode_caption, 2))

    with pytest.raises(OutOfMemoryError, match="must fit on the device"):
        build_loop().denoise(build_request("short"))


def test_latents_that_cannot_leave_the_device_stay_there(
    build_loop: BuildLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: DenoisingRun) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(DenoisingRun, "offload", fail)
    monkeypatch.setattr(DenoisingRun, "device_bytes", 2**20)
    loop = build_loop(limits=BatchingLimits(max_items=1, paused_bytes=1))
    urgent, patient = Recorder(), Recorder()
    patient.at_step[1] = lambda: loop.submit(build_request("urgent", seed=1), urgent)

    loop.submit(build_request("patient", priority=Priority.BATCH), patient)

    assert patient.result().latents.isfinite().all()
    assert urgent.result().latents.isfinite().all()


def test_a_listener_that_asks_again_and_fails_loses_the_first_request_only(
    build_loop: BuildLoop,
) -> None:
    loop, again = build_loop(), Recorder()

    def listen(outcome: object) -> None:
        if isinstance(outcome, DenoiseResult):
            loop.submit(build_request("one"), again)
            raise KeyError("a listener's own")

    loop.submit(build_request("one"), listen)

    assert again.result().latents.isfinite().all()


def test_a_step_that_cannot_be_taken_fails_alone(build_loop: BuildLoop) -> None:
    class Broken(Schedule):
        def advance(self, latents: Tensor, velocity: Tensor, step: int) -> Tensor:
            raise RuntimeError("no memory for the step")

    def schedule_of(num_steps: int) -> Schedule:
        schedule = build_schedule(num_steps)
        return Broken(schedule.sigmas) if num_steps == 3 else schedule

    loop, broken, healthy = build_loop(schedule_of=schedule_of), Recorder(), Recorder()
    loop.submit(build_request("healthy", num_inference_steps=8), healthy)
    loop.submit(build_request("broken", num_inference_steps=3), broken)

    assert "no memory for the step" in str(broken.last())
    assert healthy.result().latents.isfinite().all()
    assert loop.backlog().num_held == 0


def test_prompt_embeds_of_another_dimension_are_refused_at_once(build_loop: BuildLoop) -> None:
    odd = DenoiseRequest("odd", PromptEncoding(torch.zeros(9, 31)), build_request("x").size, 0, 1)

    with pytest.raises(InvalidRequestError, match="prompt_embeds must be"):
        build_loop().submit(odd, Recorder())


def test_an_id_that_is_held_is_refused(build_loop: BuildLoop) -> None:
    loop, refused = build_loop(), []

    def submit_again() -> None:
        with pytest.raises(InvalidRequestError, match="id must not be held already, got 'one'"):
            loop.submit(build_request("one"), Recorder())
        refused.append(True)

    recorder = Recorder({1: submit_again})
    loop.submit(build_request("one"), recorder)

    recorder.result()
    assert refused == [True]


def test_a_listener_that_fails_loses_its_request_only(build_loop: BuildLoop) -> None:
    def fail(outcome: object) -> None:
        raise KeyError("a listener's own")

    loop, healthy = build_loop(), Recorder()
    loop.submit(build_request("careless", num_inference_steps=50), fail)
    loop.submit(build_request("healthy", seed=2), healthy)

    assert healthy.result().latents.isfinite().all()
    assert loop.backlog().num_held == 0


def test_a_request_leaves_at_the_step_after_its_deadline(
    build_loop: BuildLoop, steps_ahead: int
) -> None:
    clock = HandClock()
    loop = build_loop(clock=clock)
    late = Recorder({3: lambda: clock.advance(10.1)})

    loop.submit(build_request("late", num_inference_steps=12, timeout_s=10.0), late)
    outcome = late.last()

    assert isinstance(outcome, DeadlineError)
    left = 9 - steps_ahead
    assert str(outcome) == (
        "the picture must be finished within the 10.00 s left on arrival, "
        f"{left} of 12 steps are left"
    )
    assert len(late.events) == 3


def test_a_deadline_that_cannot_be_met_is_refused_on_arrival(build_loop: BuildLoop) -> None:
    loop = build_loop()
    loop.denoise(build_request("warm", num_inference_steps=4))

    with pytest.raises(DeadlineError, match=r"estimated \d+.\d\d s must be within the 0.00 s left"):
        loop.submit(build_request("hopeless", timeout_s=1e-9), Recorder())


def test_a_full_loop_refuses_at_once(build_loop: BuildLoop) -> None:
    request = build_request("held", num_inference_steps=12)
    loop, refused = build_loop(limits=BatchingLimits(held_units=0.1)), []

    def overfill() -> None:
        with pytest.raises(ReplicaFullError, match=r"held work must stay within 0\.1 cost units"):
            loop.submit(build_request("more", num_inference_steps=12), Recorder())
        refused.append(True)

    recorder = Recorder({1: overfill})
    loop.submit(request, recorder)

    recorder.result()
    assert refused == [True]


def test_an_interactive_request_pauses_a_batch_one(build_loop: BuildLoop, steps_ahead: int) -> None:
    loop = build_loop(limits=ONE_AT_A_TIME)
    order: list[str] = []
    urgent_request = build_request("urgent", num_inference_steps=3, seed=1)
    urgent = Recorder({step: lambda: order.append("urgent") for step in (1, 2, 3)})
    patient = Recorder({step: lambda: order.append("patient") for step in (1, 3, 4)})

    def send_urgent() -> None:
        order.append("patient")
        loop.submit(urgent_request, urgent)

    patient.at_step[2] = send_urgent
    batch = build_request("patient", num_inference_steps=4, priority=Priority.BATCH)

    loop.submit(batch, patient)
    result = patient.result()

    before, after = 2 + steps_ahead, 2 - steps_ahead
    assert order == ["patient"] * before + ["urgent"] * 3 + ["patient"] * after
    assert torch.equal(result.latents, build_loop().denoise(batch).latents)


def test_a_small_picture_overtakes_a_large_one_that_is_running(
    build_loop: BuildLoop, steps_ahead: int
) -> None:
    loop, small = build_loop(limits=ONE_AT_A_TIME), Recorder()
    small_request = build_request("small", num_inference_steps=4)
    ends: list[int] = []
    large = Recorder({2: lambda: loop.submit(small_request, small)})
    large.at_step[3 + steps_ahead] = lambda: ends.append(len(small.events))

    loop.submit(build_request("large", height=512, width=512, num_inference_steps=8), large)

    large.result()
    assert ends == [4]


def test_what_came_before_any_speed_was_known_is_not_overtaken_by_what_came_after(
    build_loop: BuildLoop,
) -> None:
    clock = HandClock()
    loop = build_loop(limits=ONE_AT_A_TIME, clock=clock)
    ends: list[str] = []

    def end(name: str, *, is_early: bool = False) -> Recorder:
        def note() -> None:
            ends.append(name)
            if is_early:
                loop.submit(build_request(f"later-{name}"), end(f"later-{name}"))

        steps = {step: lambda: clock.advance(0.01) for step in (1, 2, 3)}
        return Recorder({**steps, 4: note})

    early = [end(f"{index}", is_early=True) for index in range(4)]
    for index, recorder in enumerate(early):
        loop.submit(build_request(f"{index}"), recorder)
    for recorder in early:
        recorder.result()
    loop.close()

    assert ends[:4] == ["0", "1", "2", "3"]


def test_a_batch_request_is_not_starved_by_interactive_ones(build_loop: BuildLoop) -> None:
    loop = build_loop(limits=BatchingLimits(max_items=1, max_passed_over=3))
    crowd: list[Recorder] = []

    def send_another() -> None:
        crowd.append(Recorder({1: send_another}))
        loop.submit(build_request(f"crowd-{len(crowd)}", num_inference_steps=2), crowd[-1])

    patient = Recorder()
    send_another()
    loop.submit(build_request("patient", num_inference_steps=2, priority=Priority.BATCH), patient)

    assert patient.result().latents.isfinite().all()


def test_previews_come_at_the_steps_that_were_asked_for(build_loop: BuildLoop) -> None:
    loop, recorder = build_loop(preview=LatentPreview.of_flux_vae()), Recorder()

    loop.submit(build_request("watched", width=96, num_inference_steps=8, num_previews=3), recorder)
    recorder.result()
    shapes = {
        event.step: event.preview.shape for event in recorder.events if event.preview is not None
    }

    assert shapes == dict.fromkeys((2, 4, 6), (3, 8, 12))


def test_the_preview_of_the_only_velocity_is_that_of_the_final_latents(
    build_loop: BuildLoop,
) -> None:
    preview = LatentPreview.of_flux_vae()
    loop, recorder = build_loop(preview=preview), Recorder()
    request = build_request("watched", num_inference_steps=2, num_previews=1)
    loop.submit(request, recorder)
    recorder.result()
    noise = draw_noise(request.size, seed=request.seed)
    velocity = Recorder()
    loop.submit_velocity(
        VelocityRequest("call", request.encoding, noise, build_schedule(2).model_time(0)), velocity
    )
    outcome = velocity.last()
    assert isinstance(outcome, VelocityResult)

    expected = preview.draw((noise - outcome.velocity)[0])

    assert torch.equal(recorder.events[0].preview, expected)  # type: ignore[arg-type]


def test_a_schedule_elsewhere_draws_the_same_picture_by_single_forwards(
    build_loop: BuildLoop,
) -> None:
    loop, schedule = build_loop(), build_schedule(4)
    request = build_request("whole", num_inference_steps=4)
    latents = draw_noise(request.size, seed=request.seed)
    for step in range(4):
        recorder = Recorder()
        loop.submit_velocity(
            VelocityRequest(f"step-{step}", request.encoding, latents, schedule.model_time(step)),
            recorder,
        )
        outcome = recorder.last()
        assert isinstance(outcome, VelocityResult)
        latents = schedule.advance(latents, outcome.velocity, step)

    assert torch.equal(latents, loop.denoise(request).latents)


def test_latents_of_another_rank_are_refused_for_a_single_forward(build_loop: BuildLoop) -> None:
    request = VelocityRequest("odd", draw_encoding(9), torch.zeros(16, 8, 8), 0.5)

    with pytest.raises(InvalidRequestError, match=r"latents must be \[1, 16, h, w\]"):
        build_loop().submit_velocity(request, Recorder())


def test_single_forwards_of_the_wrong_channels_fail_alone(build_loop: BuildLoop) -> None:
    loop, odd, healthy = build_loop(), Recorder(), Recorder()
    loop.submit(build_request("healthy", num_inference_steps=8), healthy)
    loop.submit_velocity(
        VelocityRequest("odd", draw_encoding(9), torch.zeros(1, 4, 8, 8), 0.5), odd
    )

    assert isinstance(odd.last(), InvalidRequestError)
    assert healthy.result().latents.isfinite().all()


def test_the_backlog_counts_what_is_left(build_loop: BuildLoop, steps_ahead: int) -> None:
    loop, seen = build_loop(limits=ONE_AT_A_TIME), []
    waiting, running = Recorder(), Recorder()

    def look() -> None:
        loop.submit(build_request("waiting", priority=Priority.BATCH), waiting)
        seen.append(loop.backlog())

    running.at_step[3] = look
    ticket = loop.submit(build_request("running", num_inference_steps=4), running)
    waiting_result = running.result() and waiting.result()

    assert seen[0].running_units == pytest.approx((1 - steps_ahead) * ticket.units / 4)
    assert seen[0].waiting_units == pytest.approx(ticket.units)
    assert seen[0].num_held == 2
    assert waiting_result.queue_s >= 0


def test_later_steps_of_a_single_forward_are_backlog_but_take_no_room(
    build_loop: BuildLoop,
) -> None:
    loop, seen = build_loop(limits=BatchingLimits(held_units=50.0)), []
    running, call = Recorder(), Recorder()
    request = build_request("call")

    def look() -> None:
        before = loop.backlog()
        noise = draw_noise(request.size, seed=0)
        tickets = [
            loop.submit_velocity(
                VelocityRequest(name, request.encoding, noise, 0.5, later_units=100.0), listener
            )
            for name, listener in (("call", call), ("another", Recorder()))
        ]
        seen.append((before, loop.backlog(), sum(ticket.units for ticket in tickets)))

    running.at_step[1] = look
    loop.submit(build_request("running"), running)
    running.result()
    call.last()

    before, after, units = seen[0]
    assert after.waiting_units - before.waiting_units == pytest.approx(units + 200.0)
    assert after.interactive_units - before.interactive_units == pytest.approx(units + 200.0)


def test_the_rate_is_learned_from_warm_sizes_only(build_loop: BuildLoop) -> None:
    loop = build_loop()

    loop.denoise(build_request("cold", num_inference_steps=1))
    cold = loop.backlog()
    loop.denoise(build_request("warm", num_inference_steps=1))

    assert cold.rate_units_s is None
    assert loop.backlog().rate_units_s is not None
    assert cold.warm_sizes == {build_request("any").size}


def test_closing_finishes_what_is_held_and_takes_nothing_more(build_loop: BuildLoop) -> None:
    loop = build_loop()
    recorders = [Recorder() for _ in range(3)]
    for index, recorder in enumerate(recorders):
        loop.submit(build_request(f"held-{index}", num_inference_steps=8), recorder)

    assert loop.close(timeout_s=60)

    assert all(recorder.result().latents.isfinite().all() for recorder in recorders)
    with pytest.raises(ReplicaFullError, match="closing"):
        loop.submit(build_request("late"), Recorder())


def test_closing_in_no_time_cancels_what_is_held(build_loop: BuildLoop) -> None:
    loop, at_step, go_on = build_loop(), threading.Event(), threading.Event()

    def pause() -> None:
        at_step.set()
        go_on.wait(60)

    held = Recorder({1: pause})
    loop.submit(build_request("held", num_inference_steps=50), held)
    at_step.wait(60)
    closing = threading.Thread(target=lambda: drained.append(loop.close(timeout_s=0)))
    drained: list[bool] = []

    closing.start()
    go_on.set()
    closing.join()

    assert drained == [False]
    assert isinstance(held.last(), CancelledError)


def test_a_watcher_hears_of_every_forward_before_its_requests_do(build_loop: BuildLoop) -> None:
    loop = build_loop()
    heard: list[tuple[str, ...]] = []
    known_at_outcome: list[int] = []
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    loop.watch(lambda report: heard.append(report.ids))

    def listen(outcome: Outcome) -> None:
        # On the loop's own thread, so that no later forward can come between.
        known_at_outcome.append(len(heard))
        outcomes.put(outcome)

    loop.submit(build_request("watched", num_inference_steps=3), listen)
    told = [outcomes.get(timeout=60) for _ in range(4)]

    assert isinstance(told[-1], DenoiseResult)
    assert heard == [("watched",)] * 3
    assert known_at_outcome == [1, 2, 3, 3]
