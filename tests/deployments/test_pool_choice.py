"""A router chooses by the ledger's view and by what it has sent since."""

import asyncio
from dataclasses import replace

import pytest
from hand_clock import HandClock

from cluster.rates import ReplicaRate, SmoothedRate, guess_rate, size_class
from deployments.backlog import GONE_AFTER_S, STALE_AFTER_S, AgedReport, ReplicaReport
from deployments.errors import InvalidFieldError, OverloadedError, UnmeetableDeadlineError
from deployments.ledger import LedgerView
from deployments.pool_choice import FirstPoolChooser, KnownPool, LedgerPoolChooser
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy
from deployments.routing.pools import PoolTraits
from pipeline.request import RenderPath

SMALL = RequestFacts(height=512, width=512, num_inference_steps=8, timeout_s=60.0)


def _pool(name: str, memory_gib: float, max_pixels: int = 2048 * 2048) -> KnownPool:
    traits = PoolTraits(
        name=name,
        path=RenderPath.FULL_IMAGE,
        memory_gib=memory_gib,
        max_pixels=max_pixels,
        start_up_s=60.0,
        max_replicas=4,
    )
    return KnownPool(traits, guess_rate(10.0))


def _report(
    pool: str,
    backlog_units: float = 0.0,
    *,
    max_backlog_units: float = 100.0,
    rate: ReplicaRate | None = None,
    replica_id: str | None = None,
) -> AgedReport:
    report = ReplicaReport(
        pool=pool,
        replica_id=replica_id or f"{pool}-1",
        sequence=1,
        backlog_units=backlog_units,
        interactive_backlog_units=backlog_units,
        max_backlog_units=max_backlog_units,
        rate=rate or ReplicaRate(SmoothedRate(10.0, num_reports=5)),
    )
    return AgedReport(report, age_s=0.0)


def _chooser(clock: HandClock, *pools: KnownPool) -> LedgerPoolChooser:
    return LedgerPoolChooser(pools, RoutingPolicy(), router_id="router", clock=clock)


BIG, CONSUMER = _pool("h800", 76.0), _pool("consumer", 15.0)


def test_small_work_goes_to_the_small_cards() -> None:
    chooser = _chooser(HandClock(), BIG, CONSUMER)
    chooser.update(LedgerView((_report("h800"), _report("consumer"))))

    assert chooser.choose(SMALL).pool == "consumer"


def test_what_was_sent_since_the_view_counts() -> None:
    chooser = _chooser(HandClock(), BIG, CONSUMER)
    chooser.update(LedgerView((_report("h800"), _report("consumer"))))

    pools = [chooser.choose(SMALL).pool for _ in range(6)]

    assert set(pools) == {"consumer", "h800"}


def test_what_was_sent_before_the_view_counts_no_more() -> None:
    clock = HandClock()
    chooser = _chooser(clock, CONSUMER)
    chooser.update(LedgerView((_report("consumer"),)))
    chooser.send(chooser.choose(SMALL))

    clock.advance(1.0)
    chooser.update(LedgerView((_report("consumer"),)))

    assert chooser.states()[0].backlog_units == 0.0


def test_what_is_in_the_router_yet_counts_however_long_its_prompt_takes() -> None:
    clock = HandClock()
    chooser = _chooser(clock, CONSUMER)
    chooser.update(LedgerView((_report("consumer"),)))
    route, other = chooser.choose(SMALL), chooser.choose(SMALL)

    def backlog_after(seconds: float) -> float:
        clock.advance(seconds)
        chooser.update(LedgerView((_report("consumer"),)))
        return chooser.states()[0].backlog_units

    held = backlog_after(1.0)
    chooser.send(route)
    chooser.drop(route)
    just_sent = backlog_after(0.0)
    chooser.drop(other)
    arrived = backlog_after(1.0)

    assert (held, just_sent, arrived) == (2 * route.units, 2 * route.units, 0.0)


def test_what_is_sent_while_the_ledger_is_silent_is_counted_whole_in_a_short_list() -> None:
    clock = HandClock()
    chooser = _chooser(clock, CONSUMER)
    roomy = _report("consumer", max_backlog_units=1e9)
    chooser.update(LedgerView((roomy, _report("h800"))))

    for _ in range(1000):
        chooser.send(chooser.choose(replace(SMALL, timeout_s=None)))
        clock.advance(0.01)

    [state] = chooser.states()
    assert state.backlog_units == 8000
    assert sum(map(len, chooser._sent.values())) < 250


def test_a_replica_that_falls_silent_between_two_views_is_not_counted_on() -> None:
    clock = HandClock()
    chooser = _chooser(clock, BIG)
    late = replace(_report("h800", replica_id="late"), age_s=STALE_AFTER_S - 0.1)
    chooser.update(LedgerView((_report("h800"), late)))

    num_replicas = [chooser.states()[0].num_replicas]
    clock.advance(0.2)
    num_replicas.append(chooser.states()[0].num_replicas)

    assert num_replicas == [2, 1]


def test_a_full_service_says_when_to_come_again() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    chooser.update(LedgerView((_report("consumer", backlog_units=99.0),)))

    with pytest.raises(OverloadedError) as caught:
        chooser.choose(SMALL)

    assert caught.value.retry_after_s == 1


def test_what_nobody_finishes_in_time_is_refused_with_the_time_it_takes() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    chooser.update(LedgerView((_report("consumer"),)))
    hurried = RequestFacts(height=512, width=512, num_inference_steps=8, timeout_s=0.1)

    with pytest.raises(UnmeetableDeadlineError, match=r"timeout_s must be at least 0\.80 "):
        chooser.choose(hurried)


def test_a_size_that_was_never_drawn_turns_nobody_away() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    slow = ReplicaRate(SmoothedRate(0.1, 5), {size_class(1 / 64, 1): SmoothedRate(0.1, 5)})
    chooser.update(LedgerView((_report("consumer", rate=slow),)))

    assert chooser.choose(replace(SMALL, timeout_s=1.0)).estimate_s == pytest.approx(80.0)


def test_a_measurement_of_long_ago_turns_nobody_away() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    slow = {size_class(1.0, 1): SmoothedRate(0.1, 5, trust=2**-10)}
    rate = ReplicaRate(SmoothedRate(0.1, 5), slow)
    chooser.update(LedgerView((_report("consumer", rate=rate),)))

    assert chooser.choose(replace(SMALL, timeout_s=1.0)).pool == "consumer"


def test_a_busy_pool_whose_replicas_may_find_time_is_asked() -> None:
    slow, fast = CONSUMER, _pool("fast", 15.0)
    chooser = _chooser(HandClock(), slow, fast)
    hurried = replace(SMALL, timeout_s=5.0)
    rates = [ReplicaRate(SmoothedRate(units_per_s, 5)) for units_per_s in (0.8, 10.0)]
    chooser.update(
        LedgerView(
            (
                _report("consumer", rate=rates[0]),
                _report("fast", backlog_units=90.0, rate=rates[1]),
            )
        )
    )

    assert chooser.choose(hurried).pool == "fast"


def test_what_no_replica_could_do_in_time_asks_for_no_more_of_them() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    chooser.update(LedgerView((_report("consumer"),)))

    with pytest.raises(UnmeetableDeadlineError):
        chooser.choose(replace(SMALL, timeout_s=0.1))

    [demand] = chooser.read_demand()
    assert demand.asked.refused_units_per_s == 0


def test_pictures_of_one_call_are_drawn_side_by_side() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    chooser.update(LedgerView((_report("consumer"), _report("consumer", replica_id="other"))))

    estimates = [chooser.choose(replace(SMALL, num_images=n)).estimate_s for n in (1, 2)]

    assert estimates == pytest.approx([0.8, 0.8])


def test_a_guess_turns_nobody_away() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    chooser.update(LedgerView((_report("consumer", rate=guess_rate(0.001)),)))

    assert chooser.choose(SMALL).pool == "consumer"


async def test_what_waits_for_a_first_replica_counts_once() -> None:
    clock = HandClock()
    chooser = _chooser(clock, CONSUMER)
    chooser.update(LedgerView(()))
    route = chooser.choose(SMALL)
    waiting = asyncio.create_task(chooser.await_replica(route))
    await asyncio.sleep(0)

    [at_once] = chooser.states()
    clock.advance(GONE_AFTER_S + 1)
    chooser.update(LedgerView(()))
    [later] = chooser.states()
    waiting.cancel()

    assert (at_once.backlog_units, later.backlog_units) == (route.units, route.units)


def test_a_pool_without_a_report_is_taken_for_cold() -> None:
    route = _chooser(HandClock(), CONSUMER).choose(SMALL)

    assert "cold" in route.explanation


def test_a_size_that_no_pool_draws_is_the_callers_mistake() -> None:
    chooser = _chooser(HandClock(), _pool("consumer", 15.0, max_pixels=512 * 512))
    large = RequestFacts(height=1024, width=1024, num_inference_steps=8)

    with pytest.raises(InvalidFieldError, match="must be at most 262144"):
        chooser.choose(large)


def test_refused_work_is_demand() -> None:
    chooser = _chooser(HandClock(), CONSUMER)
    chooser.update(LedgerView((_report("consumer", backlog_units=99.0),)))

    with pytest.raises(OverloadedError):
        chooser.choose(SMALL)

    (demand,) = chooser.read_demand()
    assert demand.asked.refused_units_per_s > 0


def test_a_pinned_path_without_a_pool_is_refused() -> None:
    chooser = FirstPoolChooser({"default": RenderPath.FULL_IMAGE})
    tiled = RequestFacts(64, 64, 8, pinned_path=RenderPath.TILED)

    with pytest.raises(InvalidFieldError, match="path must be one that a pool has"):
        chooser.choose(tiled)
