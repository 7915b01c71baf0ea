"""What a roster remembers is bounded, and what it lets in by that."""

import time

import pytest
import torch
from hand_clock import HandClock
from torch import Tensor

from pipeline.denoising.batching import BatchingLimits, Demand
from pipeline.denoising.captions import CaptionState
from pipeline.denoising.roster import Roster
from pipeline.denoising.transformer import PackedItem
from pipeline.denoising.work import Admission, Tell, Work
from pipeline.errors import DeadlineError, ReplicaFullError
from pipeline.request import ImageSize, Priority

SMALL, LARGE = ImageSize(64, 64), ImageSize(512, 512)


class LetInError(Exception):
    """The roster lets a request in."""


class Held(Work):
    """Eight steps that nobody takes."""

    steps_left, device_bytes = 8, 0

    def next_item(self, caption: CaptionState) -> PackedItem:
        raise NotImplementedError

    def take(self, velocity: Tensor) -> Tell:
        raise NotImplementedError

    def let_go(self) -> None:
        pass

    def offload(self) -> None:
        raise NotImplementedError


def hold(admission: Admission) -> Work:
    return Held(admission)


def ask(roster: Roster, size: ImageSize, *, timeout_s: float) -> None:
    """Ask for eight steps; `LetInError` is raised if they are let in."""

    def build(admission: Admission) -> Work:
        raise LetInError

    demand = Demand(1.0, 8, Priority.INTERACTIVE, timeout_s)
    roster.let_in("a", size, demand, torch.zeros(1, 1), lambda outcome: None, build)


def measured(clock: HandClock, *seconds: float, size: ImageSize = LARGE) -> Roster:
    roster = Roster(BatchingLimits(), clock)
    for each in (1.0, *seconds):  # the first of a size says nothing
        roster.measure([size], 1.0, each)
    return roster


def test_what_takes_too_long_is_refused() -> None:
    with pytest.raises(DeadlineError, match=r"estimated 8\.00 s"):
        ask(measured(HandClock(), 1.0), LARGE, timeout_s=7.0)


def test_small_pictures_that_share_forwards_are_not_refused_by_what_they_take_alone() -> None:
    roster = Roster(BatchingLimits(max_items=16), HandClock())
    for _ in range(20):
        roster.measure([SMALL], 0.1, 0.01, shares=True)

    for index in range(16):
        roster.let_in(
            f"{index}",
            SMALL,
            Demand(0.1, 8, Priority.INTERACTIVE, timeout_s=0.5),
            torch.zeros(1, 1),
            lambda outcome: None,
            hold,
        )

    assert roster.backlog().num_held == 16


def test_what_steps_of_several_have_shown_each_to_add_is_refused() -> None:
    roster = Roster(BatchingLimits(max_items=16), HandClock())
    for _ in range(20):
        roster.measure([SMALL], 0.1, 0.2, shares=True)
    for _ in range(20):
        roster.measure([SMALL] * 4, 0.4, 0.65, shares=True)  # each adds 0.15 s

    def ask_for_one(index: int) -> None:
        demand = Demand(0.1, 8, Priority.INTERACTIVE, timeout_s=12.5)
        roster.let_in(f"{index}", SMALL, demand, torch.zeros(1, 1), lambda outcome: None, hold)

    for index in range(10):
        ask_for_one(index)
    with pytest.raises(ReplicaFullError, match=r"13\.20 s must be within the 12\.50 s left"):
        ask_for_one(10)


def test_a_slow_moment_does_not_refuse_a_size_for_good() -> None:
    clock = HandClock()
    roster = measured(clock, *[0.1] * 20, *[40.0] * 3)
    with pytest.raises(DeadlineError):
        ask(roster, LARGE, timeout_s=1.0)

    clock.advance(300)

    with pytest.raises(LetInError):
        ask(roster, LARGE, timeout_s=1.0)


def test_one_slow_step_says_little() -> None:
    roster = measured(HandClock(), *[0.1] * 20, 40.0)

    assert roster.backlog().forward_times[LARGE].seconds == pytest.approx(0.16)


def test_other_sizes_say_nothing_sure_of_one() -> None:
    roster = measured(HandClock(), 1.0, size=SMALL)

    with pytest.raises(LetInError):
        ask(roster, LARGE, timeout_s=0.1)


def test_a_measurement_says_how_far_it_is_believed() -> None:
    clock = HandClock()
    roster = measured(clock, 1.0)
    clock.advance(60)

    backlog = roster.backlog()

    assert (backlog.rate_trust, backlog.forward_times[LARGE].trust) == (0.25, 0.25)


def test_the_sizes_that_were_drawn_last_are_remembered() -> None:
    roster = Roster(BatchingLimits(), time.monotonic)
    sizes = [ImageSize(64, 16 * side) for side in range(4, 604)]

    for size in (*sizes, *sizes[-300:], sizes[0]):
        roster.measure([size], 1.0, 0.5)

    backlog = roster.backlog()
    assert len(backlog.warm_sizes) == 256
    assert backlog.warm_sizes >= {sizes[0], *sizes[-255:]}
    assert backlog.forward_times.keys() <= backlog.warm_sizes
