"""What waits for a reader is bounded, and the newest is never what is lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.pending_steps import MAX_PENDING_PREVIEWS, PendingStep, PendingSteps
from pipeline.request import StepEvent

_PREVIEW = torch.zeros(3, 8, 8, dtype=torch.uint8)
have_previews = st.lists(st.booleans(), min_size=1, max_size=50)


def _fill(have_preview: list[bool]) -> PendingSteps:
    pending = PendingSteps()
    for step, has_preview in enumerate(have_preview, start=1):
        pending.add(StepEvent(step, 50, 0.5, _PREVIEW if has_preview else None))
    return pending


def _take_all(pending: PendingSteps) -> list[PendingStep]:
    return list(iter(pending.take, None))


@given(have_previews)
def test_a_reader_that_takes_nothing_costs_a_bounded_number_of_steps(
    have_preview: list[bool],
) -> None:
    assert len(_fill(have_preview)) <= 2 * MAX_PENDING_PREVIEWS + 1


@given(have_previews)
def test_the_newest_step_is_kept(have_preview: list[bool]) -> None:
    assert _take_all(_fill(have_preview))[-1].event.step == len(have_preview)


@given(have_previews)
def test_the_newest_previews_are_kept(have_preview: list[bool]) -> None:
    steps = [step for step, has_preview in enumerate(have_preview, start=1) if has_preview]

    kept = [step for step in _take_all(_fill(have_preview)) if step.event.preview is not None]

    assert [step.event.step for step in kept] == steps[-MAX_PENDING_PREVIEWS:]
    assert [step.partial_image_index for step in kept] == [
        steps.index(step.event.step) for step in kept
    ]


@given(have_previews)
def test_steps_come_in_the_order_they_were_taken(have_preview: list[bool]) -> None:
    steps = [step.event.step for step in _take_all(_fill(have_preview))]

    assert steps == sorted(steps)


def test_a_picture_that_is_drawn_again_goes_on_where_it_was() -> None:
    pending = PendingSteps()
    taken = []
    for step in (1, 2, 1, 2, 3, 4):
        pending.add(StepEvent(step, 4, 0.5, _PREVIEW if step < 4 else None))
        taken += _take_all(pending)

    assert [step.event.step for step in taken] == [1, 2, 3, 4]
    assert [step.partial_image_index for step in taken] == [0, 1, 2, None]


@pytest.mark.parametrize("num_steps", [1, 7])
def test_a_reader_in_time_misses_nothing(num_steps: int) -> None:
    pending = PendingSteps()
    taken = []
    for step in range(1, num_steps + 1):
        pending.add(StepEvent(step, num_steps, 0.5))
        taken += _take_all(pending)

    assert [step.event.step for step in taken] == list(range(1, num_steps + 1))
