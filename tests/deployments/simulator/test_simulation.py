from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
import pytest

from cluster.scaling import ScalingPolicy
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy
from deployments.routing.predictions import estimate_work
from deployments.simulator.dispatch import (
    CostDispatcher,
    Dispatcher,
    LeastWorkDispatcher,
    RoundRobinDispatcher,
    TwoChoicesDispatcher,
)
from deployments.simulator.outcome import Outcome
from deployments.simulator.plans import ServicePlan, StagePlan
from deployments.simulator.report import summarise
from deployments.simulator.simulation import Simulation
from deployments.simulator.traces import Trace, burst, draw_trace, steady
from pipeline.request import Priority
from tests.deployments.simulator.plans import (
    BIG_UNITS_PER_S,
    UNITS_1024,
    big_pool,
    service,
    small_pool,
)

LARGE = RequestFacts(1024, 1024, 8)
SMALL = RequestFacts(512, 512, 8)
OWN_S = UNITS_1024 / BIG_UNITS_PER_S


def simulate(plan: ServicePlan, trace: Trace, dispatcher: Dispatcher | None = None) -> Outcome:
    return Simulation(plan, trace, dispatcher or CostDispatcher(RoutingPolicy())).run()


def requests_at(*times_s: float, facts: RequestFacts = LARGE) -> Trace:
    return Trace(np.array(times_s), np.zeros(len(times_s), dtype=np.int32), (facts,))


def test_a_request_alone_takes_its_own_time() -> None:
    outcome = simulate(service(big_pool(1, 1)), requests_at(0.0))
    assert outcome.latency_s[0] == pytest.approx(OWN_S, rel=0.01)


def test_one_replica_keeps_the_law_of_a_queue_with_constant_service() -> None:
    trace = draw_trace(steady(0.7 / OWN_S), 30_000.0, {LARGE: 1.0}, seed=1)
    wait_s = simulate(service(big_pool(1, 1)), trace).latency_s.mean() - OWN_S
    # Pollaczek and Khinchine: rho S / 2 (1 - rho) at rho = 0.7.
    assert wait_s == pytest.approx(0.7 * OWN_S / 0.6, rel=0.1)


def test_stages_add_their_time() -> None:
    stage = StagePlan("text encoder", 0.1, 0.0, 0.0, ScalingPolicy(1, 1))
    decoder = StagePlan("VAE decoder", 0.02, 0.3, 0.0, ScalingPolicy(1, 1))
    plan = replace(service(big_pool(1, 1)), text_encoder=stage, vae_decoder=decoder, store_s=0.05)
    outcome = simulate(plan, requests_at(0.0))
    assert outcome.latency_s[0] == pytest.approx(OWN_S + 0.1 + 0.32 + 0.05, rel=0.01)
    assert outcome.estimate_s[0] == pytest.approx(outcome.latency_s[0], rel=0.01)


def test_every_request_is_answered_or_refused() -> None:
    pool = big_pool(2, 2)
    plan = service(replace(pool, traits=replace(pool.traits, max_held_units=80.0)))
    outcome = simulate(plan, draw_trace(steady(10.0), 100.0, {LARGE: 1.0}, seed=2))
    num_refused = int(np.isnan(outcome.latency_s).sum())
    assert num_refused == outcome.refusals.total()
    assert 0 < num_refused < len(outcome.trace)


def test_busy_time_is_the_work_of_what_was_answered() -> None:
    trace = draw_trace(steady(5.0), 100.0, {LARGE: 1.0}, seed=3)
    outcome = simulate(service(big_pool(6, 6)), trace)
    assert outcome.bills[0].busy_s == pytest.approx(len(trace) * OWN_S, rel=0.01)
    assert outcome.bills[0].paid_s == pytest.approx(6 * outcome.end_s)


def test_the_same_run_gives_the_same_outcome() -> None:
    trace = draw_trace(steady(8.0), 60.0, {LARGE: 0.3, SMALL: 0.7}, seed=4)
    plan = service(big_pool(3, 3), small_pool(4, 4))
    one, other = (simulate(plan, trace) for _ in range(2))
    assert np.array_equal(one.latency_s, other.latency_s)


def test_predictions_are_right_within_15_percent_where_speeds_are_not_as_guessed() -> None:
    slow = replace(big_pool(20, 20), forward_overhead_s=0.01)
    trace = draw_trace(steady(20.0), 120.0, {LARGE: 0.3, SMALL: 0.7}, seed=5)
    outcome = Simulation(
        service(slow), trace, CostDispatcher(RoutingPolicy()), noise=0.05, seed=1
    ).run()
    off = np.abs(outcome.estimate_s / outcome.latency_s - 1)[200:]
    assert np.median(off) < 0.15


def test_large_work_goes_to_big_cards_and_small_work_to_small_ones() -> None:
    trace = draw_trace(steady(2.0), 100.0, {LARGE: 0.5, SMALL: 0.5}, seed=6)
    outcome = simulate(service(big_pool(4, 4), small_pool(8, 8)), trace)
    is_small = trace.kind_of == 1
    assert (outcome.pool_of[is_small] == 1).mean() > 0.95
    assert (outcome.pool_of[~is_small] == 0).all()


def test_a_burst_from_zero_starts_more_than_one_replica_at_once() -> None:
    jobs = replace(LARGE, is_job=True)
    outcome = simulate(service(big_pool(0, 10)), requests_at(*[0.5] * 40, facts=jobs))
    ready = np.array(outcome.series[0].num_replicas)
    assert ready[59] == 0
    assert ready.max() > 1
    assert not np.isnan(outcome.latency_s).any()


def test_work_that_cannot_wait_for_a_cold_pool_is_refused_and_wakes_it() -> None:
    facts = replace(LARGE, timeout_s=10.0)
    times = [0.1 * index for index in range(1000)]
    outcome = simulate(service(big_pool(0, 20)), requests_at(*times, facts=facts))
    assert outcome.refusals["deadline"] > 500
    assert not np.isnan(outcome.latency_s[-50:]).any()


def test_small_cards_at_zero_wake_for_small_work_that_big_cards_draw_meanwhile() -> None:
    trace = draw_trace(steady(4.0), 300.0, {SMALL: 1.0}, seed=11)
    outcome = simulate(service(big_pool(2, 4), small_pool(0, 12)), trace)
    assert (outcome.pool_of[:100] == 0).all()
    assert (outcome.pool_of[-300:] == 1).mean() > 0.75


def test_replicas_come_with_a_burst_and_go_after_it() -> None:
    policy = ScalingPolicy(4, 40, down_delay_s=60.0)
    pool = replace(big_pool(4, 40), scaling=policy)
    rate = burst(3.0, factor=5.0, begin_s=100.0, duration_s=120.0)
    trace = draw_trace(rate, 1500.0, {replace(LARGE, timeout_s=60.0): 1.0}, seed=7)
    num_replicas = simulate(service(pool), trace).series[0].num_replicas
    assert num_replicas[99] <= 6
    assert max(num_replicas) >= 12
    assert num_replicas[-1] <= 6


def test_followers_grow_with_the_denoisers() -> None:
    decoder = StagePlan("VAE decoder", 0.5, 0.0, 1.0, ScalingPolicy(1, 50), start_up_s=10.0)
    plan = replace(service(big_pool(0, 40)), vae_decoder=decoder)
    jobs = replace(LARGE, is_job=True)
    outcome = simulate(plan, draw_trace(steady(10.0), 300.0, {jobs: 1.0}, seed=8))
    paid_by_one_s = outcome.end_s
    assert outcome.bills[2].paid_s > 5 * paid_by_one_s
    assert not np.isnan(outcome.latency_s).any()


def test_interactive_requests_do_not_wait_for_batch_ones() -> None:
    batch = replace(LARGE, priority=Priority.BATCH)
    times = np.array([0.0] * 10 + [0.1])
    trace = Trace(times, np.array([0] * 10 + [1], dtype=np.int32), (batch, LARGE))
    outcome = simulate(service(big_pool(1, 1)), trace)
    # At most the step that runs is waited for.
    assert OWN_S <= outcome.latency_s[-1] <= OWN_S * (1 + 1 / LARGE.num_inference_steps) * 1.001


def test_a_large_picture_is_spread_over_idle_cards() -> None:
    huge = RequestFacts(2048, 2048, 8)
    one = simulate(service(small_pool(1, 1)), requests_at(0.0, facts=huge))
    nine = simulate(service(small_pool(9, 9)), requests_at(0.0, facts=huge))
    assert one.latency_s[0] == pytest.approx(9 * nine.latency_s[0], rel=0.01)
    assert nine.bills[0].busy_s == pytest.approx(one.bills[0].busy_s, rel=0.01)


@pytest.mark.parametrize(
    "dispatcher",
    [
        CostDispatcher(RoutingPolicy()),
        LeastWorkDispatcher(RoutingPolicy()),
        TwoChoicesDispatcher(Random(0)),
        RoundRobinDispatcher(),
    ],
)
def test_every_dispatcher_answers_an_easy_load(dispatcher: Dispatcher) -> None:
    trace = draw_trace(steady(2.0), 60.0, {LARGE: 0.5, SMALL: 0.5}, seed=9)
    report = summarise(simulate(service(big_pool(4, 4), small_pool(8, 8)), trace, dispatcher))
    assert report.num_refused == 0
    assert sum(report.share_by_pool.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("build", [TwoChoicesDispatcher, partial(CostDispatcher, RoutingPolicy())])
def test_of_two_replicas_the_idle_one_is_found_whatever_is_drawn(
    build: Callable[[Random], Dispatcher], seed: int
) -> None:
    outcome = simulate(service(big_pool(2, 2)), requests_at(0.0, 0.01), build(Random(seed)))
    assert outcome.latency_s == pytest.approx(OWN_S, rel=0.01)


@pytest.mark.parametrize("dispatcher", [TwoChoicesDispatcher(Random(0)), RoundRobinDispatcher()])
def test_the_usual_routers_leave_a_picture_to_one_replica(dispatcher: Dispatcher) -> None:
    huge = requests_at(0.0, facts=RequestFacts(2048, 2048, 8))
    alone = simulate(service(small_pool(1, 1)), huge)
    among_nine = simulate(service(small_pool(9, 9)), huge, dispatcher)
    assert among_nine.latency_s == pytest.approx(alone.latency_s)


def test_passes_of_a_tiled_picture_follow_one_another() -> None:
    plan = small_pool(9, 9)
    traits = replace(plan.traits, tile_size=768, overlap=128, start_sigma=0.5)
    huge = RequestFacts(2048, 2048, 8)
    outcome = simulate(service(replace(plan, traits=traits)), requests_at(0.0, facts=huge))
    base, tiles = estimate_work(huge, traits).passes
    steps_units = base.num_steps * base.tile_units + tiles.num_steps * tiles.tile_units
    assert outcome.latency_s[0] == pytest.approx(steps_units / plan.units_per_s)
    assert outcome.estimate_s[0] == pytest.approx(outcome.latency_s[0])


def test_cost_beats_two_choices_and_round_robin_on_mixed_sizes_and_cards() -> None:
    mix = {SMALL: 0.7, LARGE: 0.25, RequestFacts(2048, 2048, 8): 0.05}
    trace = draw_trace(steady(16.0), 200.0, mix, seed=10)
    plan = service(big_pool(8, 8), small_pool(8, 8))
    dispatchers = (
        CostDispatcher(RoutingPolicy()),
        TwoChoicesDispatcher(Random(0)),
        RoundRobinDispatcher(),
    )
    ours, two, robin = (summarise(simulate(plan, trace, each)).p95_s for each in dispatchers)
    assert ours < 0.7 * two
    assert ours < 0.7 * robin
