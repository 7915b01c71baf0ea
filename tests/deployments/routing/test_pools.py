import pytest

from cluster.rates import guess_rate
from deployments.backlog import AgedReport, PoolBacklog, ReplicaReport
from deployments.ledger import LedgerView
from deployments.routing.decisions import Choice, RequestFacts
from deployments.routing.paths import RoutingPolicy, choose_path
from deployments.routing.pools import PoolState, PoolTraits, build_state, share_of_mean_wait
from pipeline.request import Priority, RenderPath

TRAITS = PoolTraits("h800", RenderPath.FULL_IMAGE, 76.0, 2048 * 2048, 120.0, 8)
BATCH = RequestFacts(1024, 1024, 8, priority=Priority.BATCH)
GUESS = guess_rate(40.0)
AGE_S = 0.1


def report(replica_id: str, run_s: float, units: float = 69.0) -> AgedReport:
    learnt = GUESS.observe(34.5, 8, run_s)
    return AgedReport(ReplicaReport("h800", replica_id, 1, units, units / 3, 400.0, learnt), AGE_S)


def state_of(*reports: AgedReport) -> PoolState:
    of_pool = LedgerView(reports).pool("h800")
    return build_state(TRAITS, of_pool.to_backlog(), of_pool.typical_rate(GUESS))


def test_reports_of_replicas_become_the_prediction_of_a_picture() -> None:
    state = state_of(report("a", 1.0), report("b", 1.0))
    decision = choose_path(BATCH, [state], RoutingPolicy())
    assert isinstance(decision, Choice)
    # Two replicas hold two pictures of a second each.
    assert decision.option.wait_s == pytest.approx(2.0 - AGE_S)
    assert decision.option.own_s == pytest.approx(1.0, rel=0.01)


def test_a_pool_without_replicas_starts_up_and_works_as_guessed() -> None:
    state = build_state(TRAITS, PoolBacklog(), GUESS, waiting_units=40.0)
    decision = choose_path(RequestFacts(1024, 1024, 8), [state], RoutingPolicy())
    assert isinstance(decision, Choice)
    assert decision.option.wait_s == pytest.approx(121.0)
    assert decision.option.own_s == pytest.approx(34.5 / 40.0, rel=0.01)


def test_a_wait_is_that_of_replicas_that_are_not_chosen_by_their_backlog() -> None:
    state = state_of(report("a", 1.0, units=34.5), report("b", 1.0, units=103.5))
    waits = state.wait_s, state.interactive_wait_s
    assert waits == pytest.approx((2.0 - AGE_S, 2 / 3 - AGE_S))


@pytest.mark.parametrize(
    ("num_replicas", "num_idle", "share"),
    # Of two replicas where three of four are idle one is idle, and takes it.
    [(4, 0, 1.0), (4, 2, 1 / 3), (4, 3, 0.0), (4, 4, 0.0), (1, 0, 1.0), (0, 0, 1.0)],
)
def test_where_one_of_two_replicas_is_idle_nothing_is_waited_for(
    num_replicas: int, num_idle: int, share: float
) -> None:
    assert share_of_mean_wait(num_replicas, num_idle) == pytest.approx(share)
