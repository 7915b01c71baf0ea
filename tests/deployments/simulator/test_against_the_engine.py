"""One replica in the simulator against the step loop's own choice of every single step."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.cost import full_image_units
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy
from deployments.simulator.dispatch import CostDispatcher
from deployments.simulator.simulation import Simulation
from deployments.simulator.traces import Trace, draw_trace, steady
from pipeline.denoising.batching import BatchingLimits, Candidate, choose_batch, is_turn
from pipeline.request import Priority
from tests.deployments.simulator.plans import BIG_UNITS_PER_S, big_pool, service

LIMITS = BatchingLimits()
MIX = {
    RequestFacts(512, 512, 8): 0.60,
    RequestFacts(1024, 1024, 8): 0.20,
    RequestFacts(1024, 1024, 8, priority=Priority.BATCH): 0.15,
    RequestFacts(2048, 2048, 8): 0.05,
}
NUM_REQUESTS = 400


@dataclass
class Held:
    """A request in the step loop."""

    index: int
    facts: RequestFacts
    arrived_s: float
    forwards_left: int
    passed_over: int = 0

    @property
    def step_units(self) -> float:
        return full_image_units(self.facts.height, self.facts.width, 1)

    def to_candidate(self) -> Candidate:
        own_s = self.facts.num_inference_steps * self.step_units / BIG_UNITS_PER_S
        due_s = self.arrived_s + LIMITS.patience * own_s
        return Candidate(
            str(self.index),
            self.step_units,
            self.facts.priority,
            due_s,
            self.index,
            self.passed_over,
        )


def step_through(trace: Trace) -> NDArray[np.float64]:
    """Take every step as the engine does, arrivals between steps only; return latencies."""
    latency_s = np.full(len(trace), np.nan)
    held: dict[str, Held] = {}
    now_s, coming, steps_since_turn = 0.0, 0, 0
    while held or coming < len(trace):
        if not held:
            now_s = max(now_s, float(trace.times_s[coming]))
        while coming < len(trace) and trace.times_s[coming] <= now_s:
            facts = trace.kinds[trace.kind_of[coming]]
            arrived_s = float(trace.times_s[coming])
            held[str(coming)] = Held(coming, facts, arrived_s, facts.num_inference_steps)
            coming += 1
        candidates = [each.to_candidate() for each in held.values()]
        chosen = choose_batch(candidates, LIMITS, steps_since_turn=steps_since_turn)
        steps_since_turn = 0 if is_turn(chosen, candidates) else steps_since_turn + 1
        now_s += sum(each.step_units for each in chosen) / BIG_UNITS_PER_S
        for each in held.values():
            each.passed_over += 1
        for each in (held[candidate.id] for candidate in chosen):
            each.passed_over = 0
            each.forwards_left -= 1
            if not each.forwards_left:
                latency_s[each.index] = now_s - each.arrived_s
                del held[str(each.index)]
    return latency_s


@pytest.mark.parametrize("load", [0.5, 0.7, 0.85])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_latency_is_that_of_the_engines_own_steps(load: float, seed: int) -> None:
    units = sum(
        share * full_image_units(facts.height, facts.width, 8) for facts, share in MIX.items()
    )
    rate = load * BIG_UNITS_PER_S / units
    trace = draw_trace(steady(rate), NUM_REQUESTS / rate, MIX, seed=seed)

    plan = service(big_pool(1, 1, held_units=1e9))
    foretold_s = Simulation(plan, trace, CostDispatcher(RoutingPolicy())).run().latency_s

    assert foretold_s == pytest.approx(step_through(trace), rel=1e-6)
