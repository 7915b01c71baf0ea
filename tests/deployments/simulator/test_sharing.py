"""Small pictures that share forwards, from the plan to the latencies."""

from dataclasses import replace

import numpy as np
import pytest

from cluster.cost import count_image_tokens, full_image_units
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy
from deployments.simulator.dispatch import CostDispatcher
from deployments.simulator.outcome import Outcome
from deployments.simulator.plans import CPU_SHARING, GPU_SHARING, PoolPlan, count_rows
from deployments.simulator.simulation import Simulation
from deployments.simulator.step_loop import NEVER_SHARED
from deployments.simulator.traces import Trace, draw_trace, steady
from pipeline.denoising.transformer import SHARING_LIMITS
from tests.deployments.simulator.plans import big_pool, service

OVERHEAD_S = 0.01
POOL = replace(big_pool(1, 1), units_per_s=3.0, forward_overhead_s=OVERHEAD_S, sharing=CPU_SHARING)
SMALL = RequestFacts(128, 128, 8)
FORWARD_S = POOL.forward_s(full_image_units(128, 128, 1))


def simulate(pool: PoolPlan, trace: Trace) -> Outcome:
    return Simulation(service(pool), trace, CostDispatcher(RoutingPolicy())).run()


def requests_at_once(count: int) -> Trace:
    return Trace(np.zeros(count), np.zeros(count, dtype=np.int32), (SMALL,))


def test_limits_are_the_transformers_own() -> None:
    assert {"cuda": GPU_SHARING, "cpu": CPU_SHARING} == SHARING_LIMITS


@pytest.mark.parametrize("size", [(128, 128), (192, 256), (512, 512), (2048, 2048)])
def test_rows_are_those_that_the_units_were_counted_from(size: tuple[int, int]) -> None:
    assert count_rows(full_image_units(*size, 1)) == count_image_tokens(*size) + 64


def test_pictures_that_share_forwards_pay_each_overhead_once() -> None:
    latency_s = simulate(POOL, requests_at_once(4)).latency_s
    assert latency_s == pytest.approx(8 * (4 * FORWARD_S - 3 * OVERHEAD_S))


def test_what_sharing_saves_was_not_busy() -> None:
    outcome = simulate(POOL, requests_at_once(4))
    assert outcome.bills[0].busy_s == pytest.approx(outcome.latency_s[0])


@pytest.mark.parametrize("side", [512, 768, 1024])
def test_from_512_on_a_gpu_shares_nothing(side: int) -> None:
    pool = replace(big_pool(1, 1), forward_overhead_s=0.0034)
    trace = draw_trace(steady(4.0), 60.0, {RequestFacts(side, side, 8): 1.0}, seed=2)
    alone = simulate(replace(pool, sharing=NEVER_SHARED), trace)
    assert np.array_equal(simulate(pool, trace).latency_s, alone.latency_s, equal_nan=True)
