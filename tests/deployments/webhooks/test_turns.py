"""Every receiver gets its turns, and none takes those of the others."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.webhooks.turns import (
    MAX_WAIT_S,
    Receiver,
    Turns,
    begin_send,
    end_send,
    has_turn,
    join_line,
    rest_s,
)

TIMEOUT_S = 10.0


def after(receiver: Receiver, now_s: float, *, is_silence: bool, took_s: float = 0.1) -> Receiver:
    return end_send(
        begin_send(receiver), now_s, took_s=took_s, is_silence=is_silence, timeout_s=TIMEOUT_S
    )


def silent(num_timeouts: int, *, now_s: float = 100.0) -> Receiver:
    receiver = Receiver()
    for _ in range(num_timeouts):
        receiver = after(receiver, now_s, is_silence=True, took_s=TIMEOUT_S)
    return receiver


def test_a_receiver_has_two_messages_at_once() -> None:
    once = begin_send(Receiver())
    assert has_turn(once, 0.0, 0)
    assert not has_turn(begin_send(once), 0.0, 0)


def test_a_receiver_that_was_silent_has_one_at_once() -> None:
    assert has_turn(silent(1), 100.0, 0)
    assert not has_turn(begin_send(silent(1)), 100.0, 1)


def test_silent_receivers_together_leave_room_for_others() -> None:
    assert has_turn(silent(1), 100.0, 7)
    assert not has_turn(silent(1), 100.0, 8)
    assert has_turn(Receiver(), 100.0, 8)


def test_a_receiver_rests_after_time_outs_in_a_row() -> None:
    assert has_turn(silent(2), 100.0, 0)
    assert not has_turn(silent(3), 129.0, 0)
    assert has_turn(silent(3), 130.0, 0)


def test_rests_grow_to_a_bound() -> None:
    rests = [rest_s(number, TIMEOUT_S) for number in (2, 3, 4, 5, 6, 7, 5000)]
    assert rests == [0.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


def test_an_answer_ends_the_silence_and_the_line() -> None:
    waiting = join_line(silent(4), 100.0)
    answered = after(waiting, 200.0, is_silence=False)

    assert (answered.num_timeouts, answered.line_ends_s) == (0, 0.0)
    assert has_turn(begin_send(answered), 200.0, 8)


def test_those_that_wait_are_spread_by_what_a_message_takes() -> None:
    receiver = replace(Receiver(), turn_s=0.5)
    first = join_line(receiver, 100.0)
    second = join_line(first, 100.0)

    assert (first.line_ends_s, second.line_ends_s) == (100.5, 101.0)
    assert join_line(second, 200.0).line_ends_s == 200.5


def test_those_of_a_receiver_that_rests_wait_until_it_has_rested() -> None:
    assert join_line(silent(3), 100.0).line_ends_s > 130.0


@given(st.floats(0.0, 1e9), st.integers(0, 8), st.integers(1, 200))
def test_a_wait_has_a_bound(now_s: float, num_timeouts: int, num_waiting: int) -> None:
    turns = Turns(timeout_s=TIMEOUT_S)
    for _ in range(num_timeouts + 2):
        turns.begin("a")
    for _ in range(num_timeouts):
        turns.end("a", now_s, took_s=TIMEOUT_S, is_silence=True)

    waits_s = [turns.wait_s("a", now_s) for _ in range(num_waiting)]
    assert all(0.0 < wait_s <= MAX_WAIT_S for wait_s in waits_s)
    assert turns.wait_s("b", now_s) == 0.0


def test_a_silence_lasts_from_its_first_time_out_to_an_answer() -> None:
    turns = Turns(timeout_s=TIMEOUT_S)
    for now_s in (100.0, 200.0):
        turns.begin("a")
        turns.end("a", now_s, took_s=TIMEOUT_S, is_silence=True)
    assert turns.silent_s("a", 250.0) == pytest.approx(150.0)

    turns.begin("a")
    turns.end("a", 300.0, took_s=0.1, is_silence=False)
    assert turns.silent_s("a", 400.0) == 0.0
