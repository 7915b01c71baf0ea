from dataclasses import replace

import pytest

from deployments.routing.decisions import RequestFacts
from deployments.simulator.errors import PlanError
from deployments.simulator.search import (
    Target,
    bare_load,
    format_counts,
    search_mix,
    simulate_counts,
    size_plan,
)
from deployments.simulator.traces import draw_trace, steady
from tests.deployments.simulator.plans import big_pool, service, small_pool

TRACE = draw_trace(steady(10.0), 60.0, {RequestFacts(1024, 1024, 8, timeout_s=60.0): 1.0}, seed=1)
TARGET = Target(p95_s=2.0)


def test_the_bare_load_is_the_work_that_arrives() -> None:
    busy = len(TRACE) * 34.48 / 43.7 / TRACE.duration_s
    assert bare_load(big_pool(0, 0), TRACE) == pytest.approx(busy, rel=0.01)


def test_the_mix_found_meets_the_target_and_one_replica_less_does_not() -> None:
    plan = service(big_pool(0, 0))
    mix = search_mix(plan, TRACE, TARGET, lambda _: None)
    assert TARGET.is_met(simulate_counts(plan, mix.counts, TRACE))
    assert not TARGET.is_met(simulate_counts(plan, {"big": mix.counts["big"] - 1}, TRACE))


def test_the_cheaper_of_two_equal_offers_is_taken() -> None:
    plan = service(big_pool(0, 0, price=3.0, name="dear"), big_pool(0, 0, price=2.0, name="cheap"))
    lines: list[str] = []
    mix = search_mix(plan, TRACE, TARGET, lines.append)
    assert set(mix.counts) == {"cheap"}
    assert [line.split()[2] for line in lines] == ["dear:", "cheap:"]


def test_small_cards_join_where_they_are_cheaper() -> None:
    mix_of_sizes = {
        RequestFacts(512, 512, 8, timeout_s=60.0): 0.8,
        RequestFacts(1024, 1024, 8, timeout_s=60.0): 0.2,
    }
    trace = draw_trace(steady(20.0), 60.0, mix_of_sizes, seed=2)
    plan = service(big_pool(0, 0), small_pool(0, 0))
    mix = search_mix(plan, trace, Target(p95_s=3.0), lambda _: None)
    assert mix.counts["small"] > 0
    assert mix.counts["big"] > 0


def test_a_size_that_a_trace_never_asks_for_is_nothing_to_a_search() -> None:
    short = draw_trace(steady(4.0), 15.0, {RequestFacts(1024, 1024, 8): 1.0}, seed=4)
    with_another = replace(short, kinds=(*short.kinds, RequestFacts(512, 512, 8)))
    plan = service(big_pool(0, 0), small_pool(0, 0))
    one, other = (search_mix(plan, each, TARGET, lambda _: None) for each in (short, with_another))
    assert one.counts == other.counts


def test_a_target_that_no_card_meets_is_said_to_be_one() -> None:
    with pytest.raises(PlanError, match=r"a mix must reach p95 0\.1 s and 99% in time, none of"):
        search_mix(service(big_pool(0, 0)), TRACE, Target(p95_s=0.1), lambda _: None)


def test_pools_of_none_are_left_out() -> None:
    plan = size_plan(service(big_pool(0, 0), small_pool(0, 0)), {"big": 3, "small": 0})
    assert [pool.traits.name for pool in plan.pools] == ["big"]
    assert plan.pools[0].traits.max_replicas == 3


def test_a_mix_is_said_in_words() -> None:
    assert format_counts({"big": 2, "small": 0, "cpu": 1}) == "2 x big, 1 x cpu"
