import pytest

from cluster.rates import guess_rate
from deployments.backlog import AgedReport, PoolBacklog, ReplicaReport, summarise_pool
from deployments.routing.decisions import Choice, RequestFacts
from deployments.routing.paths import RoutingPolicy, choose_path
from deployments.routing.pools import PoolTraits, build_state
from pipeline.request import RenderPath

TRAITS = PoolTraits("h800", RenderPath.FULL_IMAGE, 76.0, 2048 * 2048, 120.0, 8)
GUESS = guess_rate(40.0)


def report(replica_id: str, run_s: float) -> AgedReport:
    learnt = GUESS.observe(34.5, 8, run_s)
    return AgedReport(
        ReplicaReport("h800", replica_id, 1, 69.0, 69.0, 400.0, learnt, frozenset()), 0.1
    )


def test_reports_of_replicas_become_the_prediction_of_a_picture() -> None:
    backlog = summarise_pool("h800", [report("a", 1.0), report("b", 1.0)])
    state = build_state(TRAITS, backlog, GUESS)
    decision = choose_path(RequestFacts(1024, 1024, 8), [state], RoutingPolicy())
    assert isinstance(decision, Choice)
    # Two replicas hold two pictures of a second each.
    assert decision.option.wait_s == pytest.approx(2.0)
    assert decision.option.own_s == pytest.approx(1.0, rel=0.01)


def test_a_pool_without_replicas_starts_up_and_works_as_guessed() -> None:
    state = build_state(TRAITS, PoolBacklog("h800"), GUESS, waiting_units=40.0)
    decision = choose_path(RequestFacts(1024, 1024, 8), [state], RoutingPolicy())
    assert isinstance(decision, Choice)
    assert decision.option.wait_s == pytest.approx(121.0)
    assert decision.option.own_s == pytest.approx(34.5 / 40.0, rel=0.01)
