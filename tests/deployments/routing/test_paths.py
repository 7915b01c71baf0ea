from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.rates import ReplicaRate, SmoothedRate
from deployments.routing.decisions import Choice, Reason, Refusal, RefusalKind, RequestFacts
from deployments.routing.paths import RoutingPolicy, choose_path, cost_s, traffic_class
from deployments.routing.pools import PoolState, PoolTraits
from deployments.routing.predictions import predict
from deployments.routing_config import RoutingConfig
from pipeline.request import Priority, RenderPath

POLICY = RoutingPolicy()
BIG = PoolState(
    traits=PoolTraits("h800", RenderPath.FULL_IMAGE, 76.0, 2048 * 2048, 180.0, 8),
    rate=ReplicaRate(SmoothedRate(43.7, 20)),
    num_replicas=4,
    num_idle_replicas=4,
    backlog_units=0.0,
    interactive_backlog_units=0.0,
    wait_s=0.0,
    interactive_wait_s=0.0,
    max_backlog_units=4 * 8000.0,
    units_per_s=4 * 43.7,
)
SMALL = PoolState(
    traits=PoolTraits(
        "consumer", RenderPath.TILED, 15.0, 4096 * 4096, 60.0, 8, tile_size=1024, overlap=256
    ),
    rate=ReplicaRate(SmoothedRate(5.0, 20)),
    num_replicas=8,
    num_idle_replicas=8,
    backlog_units=0.0,
    interactive_backlog_units=0.0,
    wait_s=0.0,
    interactive_wait_s=0.0,
    max_backlog_units=8 * 2000.0,
    units_per_s=40.0,
)
PICTURE_512 = RequestFacts(512, 512, 8, timeout_s=60.0)
PICTURE_1024 = RequestFacts(1024, 1024, 8, timeout_s=60.0)
PICTURE_2048 = RequestFacts(2048, 2048, 8, timeout_s=300.0)


def loaded(pool: PoolState, wait_s: float) -> PoolState:
    units = wait_s * pool.units_per_s
    return replace(
        pool,
        num_idle_replicas=0,
        backlog_units=units,
        interactive_backlog_units=units,
        wait_s=wait_s,
        interactive_wait_s=wait_s,
    )


def cold(pool: PoolState) -> PoolState:
    return replace(pool, num_replicas=0, num_idle_replicas=0, units_per_s=0, max_backlog_units=0)


def choose(
    facts: RequestFacts, *pools: PoolState, previous: str | None = None
) -> tuple[str, Reason]:
    decision = choose_path(facts, pools, POLICY, previous=previous)
    assert isinstance(decision, Choice), decision
    return decision.pool, decision.reason


def refuse(facts: RequestFacts, *pools: PoolState) -> Refusal:
    decision = choose_path(facts, pools, POLICY)
    assert isinstance(decision, Refusal), decision
    return decision


def test_small_work_fills_the_small_cards_first() -> None:
    assert choose(PICTURE_512, BIG, SMALL) == ("consumer", Reason.PREFERRED)


def test_small_work_goes_to_the_big_cards_once_the_small_are_congested() -> None:
    assert choose(PICTURE_512, BIG, loaded(SMALL, 5.0)) == ("h800", Reason.PREFERRED)


def test_large_work_goes_to_the_big_cards() -> None:
    assert choose(PICTURE_2048, BIG, SMALL) == ("h800", Reason.PREFERRED)


def test_large_work_that_the_big_cards_cannot_finish_in_time_spills_to_tiles() -> None:
    facts = replace(PICTURE_2048, timeout_s=60.0)
    assert choose(facts, loaded(BIG, 58.0), SMALL) == ("consumer", Reason.ONLY)


def test_large_work_stays_with_busy_big_cards_that_are_done_sooner_than_tiles() -> None:
    assert choose(PICTURE_2048, loaded(BIG, 3.0), loaded(SMALL, 1.0)) == ("h800", Reason.PREFERRED)


def test_large_work_goes_to_tiles_that_are_done_sooner() -> None:
    assert choose(PICTURE_2048, loaded(BIG, 30.0), SMALL) == ("consumer", Reason.LEAST_COST)


def test_large_work_leaves_busy_big_cards_to_small_work_that_would_wait_for_it() -> None:
    base_pass = replace(SMALL.traits, tile_size=768, overlap=128, start_sigma=0.5)
    small = replace(loaded(SMALL, 4.0), traits=base_pass)
    big = loaded(BIG, 4.0)
    decision = choose_path(PICTURE_2048, [big, small], POLICY)
    assert isinstance(decision, Choice)
    assert decision.path is RenderPath.TILED
    # It would itself be done sooner on the big cards, but they would draw nothing else meanwhile.
    assert predict(PICTURE_2048, big).completion_s < decision.estimate_s


def test_small_work_with_a_short_deadline_skips_the_small_cards() -> None:
    facts = replace(PICTURE_512, timeout_s=1.0)
    assert choose(facts, BIG, SMALL) == ("h800", Reason.ONLY)


def test_batch_work_waits_longer_for_the_small_cards_than_interactive_work() -> None:
    facts = replace(PICTURE_512, priority=Priority.BATCH)
    assert choose(facts, BIG, loaded(SMALL, 5.0)) == ("consumer", Reason.PREFERRED)


def test_interactive_work_does_not_wait_for_batch_work() -> None:
    pool = replace(loaded(SMALL, 50.0), interactive_wait_s=0.0)
    assert choose(PICTURE_512, BIG, pool) == ("consumer", Reason.PREFERRED)


def test_a_pinned_path_is_taken_whatever_the_load() -> None:
    facts = replace(PICTURE_512, pinned_path=RenderPath.FULL_IMAGE)
    assert choose(facts, loaded(BIG, 50.0), SMALL) == ("h800", Reason.PINNED)


def test_tiles_spread_over_the_replicas() -> None:
    facts = replace(PICTURE_2048, pinned_path=RenderPath.TILED)
    together = choose_path(facts, [SMALL], POLICY)
    alone = choose_path(facts, [replace(SMALL, num_replicas=1, num_idle_replicas=1)], POLICY)
    assert isinstance(together, Choice)
    assert isinstance(alone, Choice)
    # Nine tiles on eight replicas: one of them draws two.
    assert alone.estimate_s == pytest.approx(9 / 2 * together.estimate_s)


def test_steps_of_a_base_pass_wait_for_one_another_however_many_replicas_there_are() -> None:
    traits = replace(SMALL.traits, tile_size=768, overlap=128, start_sigma=0.5)
    option = predict(PICTURE_2048, replace(SMALL, traits=traits))
    base, tiles = option.work.passes
    steps_s = (base.num_steps * base.tile_units + 2 * tiles.num_steps * tiles.tile_units) / 5.0
    assert (base.num_tiles, tiles.num_tiles) == (1, 9)
    assert option.own_s == pytest.approx(steps_s)


def test_to_come_back_takes_a_lower_cost_than_to_have_stayed() -> None:
    pools = (BIG, loaded(SMALL, 0.25))
    assert choose(PICTURE_512, *pools, previous="consumer")[0] == "consumer"
    assert choose(PICTURE_512, *pools, previous="h800")[0] == "h800"


def test_a_pool_of_barely_lower_cost_does_not_take_over() -> None:
    policy = RoutingPolicy(interactive_patience=0.0)
    pools = [loaded(BIG, 4.6), loaded(SMALL, 1.0)]
    costs = [cost_s(predict(PICTURE_1024, pool), policy) for pool in pools]
    chosen = {
        previous: choose_path(PICTURE_1024, pools, policy, previous=previous)
        for previous in ("h800", "consumer")
    }
    assert policy.stickiness < costs[0] / costs[1] < 1 / policy.stickiness
    assert [isinstance(each, Choice) and each.pool for each in chosen.values()] == list(chosen)


def test_an_idle_pool_costs_a_request_its_own_time_and_others_nothing() -> None:
    option = predict(PICTURE_1024, BIG)
    assert cost_s(option, POLICY) == option.own_s


def test_an_unhealthy_pool_is_never_chosen() -> None:
    assert choose(PICTURE_2048, replace(BIG, is_healthy=False), SMALL) == ("consumer", Reason.ONLY)


def test_work_that_fits_its_deadline_waits_for_a_cold_pool() -> None:
    facts = replace(PICTURE_2048, timeout_s=300.0, pinned_path=RenderPath.FULL_IMAGE)
    assert choose(facts, cold(BIG)) == ("h800", Reason.COLD)


def test_every_job_may_wait_for_a_cold_pool() -> None:
    facts = replace(PICTURE_2048, timeout_s=10.0, is_job=True)
    assert choose(facts, cold(BIG)) == ("h800", Reason.COLD)


def test_a_cold_pool_that_would_start_too_late_is_a_refusal_with_the_estimate() -> None:
    refusal = refuse(PICTURE_1024, cold(BIG))
    assert refusal.kind is RefusalKind.DEADLINE
    assert refusal.message == (
        "the picture would take 180.79 s, 180.00 s of them waiting; 60.00 s are left"
    )
    assert refusal.retry_after_s == 121


def test_a_replica_says_whether_what_goes_before_a_whole_picture_leaves_time() -> None:
    facts = replace(PICTURE_512, timeout_s=20.0)
    assert choose(facts, loaded(BIG, 100.0)) == ("h800", Reason.ONLY)
    assert choose(facts, loaded(BIG, 100.0), SMALL) == ("consumer", Reason.ONLY)


def test_a_size_never_drawn_that_has_to_wait_may_come_again_once_the_wait_is_over() -> None:
    drew_large = ReplicaRate(SmoothedRate(0.1, 20), {9: SmoothedRate(0.1, 20)})
    refusal = refuse(PICTURE_512, replace(loaded(SMALL, 70.0), rate=drew_large))
    assert refusal.own_s is None
    assert refusal.retry_after_s == 10


def test_what_takes_longer_than_a_smaller_picture_is_known_to_be_too_late_at_once() -> None:
    drew_small = ReplicaRate(SmoothedRate(1.0, 20), {-4: SmoothedRate(1.0, 20)})
    facts = replace(PICTURE_512, timeout_s=0.1)
    refusal = refuse(facts, replace(loaded(BIG, 1.0), rate=drew_small))
    assert refusal.own_s is not None


def test_replicas_that_are_starting_shorten_the_wait_for_a_cold_pool() -> None:
    starting = replace(cold(BIG), num_starting=4, start_left_s=20.0)
    assert choose(PICTURE_1024, starting) == ("h800", Reason.COLD)


def test_a_warm_pool_is_preferred_to_a_cold_one_that_would_suit_better() -> None:
    assert choose(PICTURE_512, BIG, cold(SMALL))[0] == "h800"


def test_a_cold_pool_is_not_waited_for_to_leave_a_busy_one_to_others() -> None:
    facts = replace(PICTURE_2048, timeout_s=300.0)
    assert choose(facts, loaded(BIG, 50.0), cold(SMALL)) == ("h800", Reason.PREFERRED)


def test_small_work_that_big_cards_draw_wishes_for_the_cold_small_ones() -> None:
    decision = choose_path(PICTURE_512, [BIG, cold(SMALL)], POLICY)
    assert isinstance(decision, Choice)
    assert decision.wished is not None
    assert decision.wished.traits is SMALL.traits


def test_large_work_does_not_wish_for_small_cards() -> None:
    decision = choose_path(PICTURE_2048, [BIG, cold(SMALL)], POLICY)
    assert isinstance(decision, Choice)
    assert decision.wished is None


def test_large_work_that_is_drawn_in_tiles_wishes_for_the_cold_big_cards() -> None:
    decision = choose_path(PICTURE_2048, [cold(BIG), SMALL], POLICY)
    assert isinstance(decision, Choice)
    assert decision.pool == "consumer"
    assert decision.wished is not None
    assert decision.wished.traits is BIG.traits


def test_no_pool_that_is_up_is_unavailable() -> None:
    refusal = refuse(PICTURE_512, replace(BIG, is_healthy=False))
    assert (refusal.kind, refusal.retry_after_s) == (RefusalKind.UNAVAILABLE, 180)


def test_full_pools_are_busy_until_they_have_drained() -> None:
    pool = replace(loaded(BIG, 30.0), max_backlog_units=30.0 * BIG.units_per_s)
    refusal = refuse(replace(PICTURE_512, timeout_s=None), pool)
    assert (refusal.kind, refusal.retry_after_s) == (RefusalKind.BUSY, 1)


def test_a_pool_full_of_batch_work_has_room_for_interactive_work() -> None:
    full = replace(loaded(BIG, 30.0), max_backlog_units=30.0 * BIG.units_per_s)
    pool = replace(full, interactive_backlog_units=0.0, interactive_wait_s=0.0)
    batch = replace(PICTURE_512, timeout_s=None, priority=Priority.BATCH)

    assert choose(PICTURE_512, pool) == ("h800", Reason.ONLY)
    assert refuse(batch, pool).kind is RefusalKind.BUSY


def test_what_waits_for_a_cold_pool_is_bounded_too() -> None:
    most = BIG.traits.max_held_units * BIG.traits.max_replicas
    pool = replace(cold(BIG), backlog_units=most, interactive_backlog_units=most)
    refusal = refuse(replace(PICTURE_512, timeout_s=None), pool)
    assert (refusal.kind, refusal.retry_after_s) == (RefusalKind.BUSY, 180)


def test_a_job_waits_for_room() -> None:
    pool = replace(loaded(BIG, 30.0), max_backlog_units=10.0)
    assert choose(replace(PICTURE_512, is_job=True), pool) == ("h800", Reason.ONLY)


def test_a_picture_larger_than_a_replica_may_hold_is_taken_by_an_idle_pool() -> None:
    pool = replace(BIG, max_backlog_units=10.0)
    assert choose(PICTURE_2048, pool) == ("h800", Reason.ONLY)


def test_a_picture_that_no_pool_draws_is_refused_for_good() -> None:
    refusal = refuse(RequestFacts(8192, 8192, 8), BIG, SMALL)
    assert (refusal.kind, refusal.retry_after_s) == (RefusalKind.TOO_LARGE, None)
    assert refusal.message == (
        "height x width must be at most 16777216 on path auto, "
        "the largest of this shape is 4096x4096, got 8192 x 8192"
    )


def test_a_path_that_no_pool_has_is_refused_for_good() -> None:
    refusal = refuse(replace(PICTURE_512, pinned_path=RenderPath.TILED), BIG)
    assert refusal.message == "path must be one that a pool has, got tiled"


def test_a_choice_explains_itself() -> None:
    decision = choose_path(PICTURE_1024, [loaded(BIG, 0.5), SMALL], POLICY)
    assert isinstance(decision, Choice)
    assert decision.explain() == "h800 (preferred of 2): 34.5 units, wait 0.50 s, own 0.79 s"


def test_the_configuration_is_the_policy_unless_it_says_otherwise() -> None:
    assert RoutingConfig().to_policy() == POLICY
    assert RoutingConfig(crowding_units=24.0).to_policy() == replace(POLICY, crowding_units=24.0)


def test_small_and_large_work_remember_their_pools_apart() -> None:
    assert traffic_class(PICTURE_512, POLICY) != traffic_class(PICTURE_1024, POLICY)


def test_refused_work_counts_for_the_pool_that_came_nearest() -> None:
    facts = replace(PICTURE_1024, timeout_s=10.0)
    nearest = refuse(facts, cold(BIG), loaded(SMALL, 200.0)).nearest
    assert nearest is not None
    assert (nearest.traits.name, round(nearest.work.units, 1)) == ("h800", 34.5)


STATES = st.builds(
    lambda pool, num, wait, healthy, starting: replace(
        loaded(pool, wait) if num else cold(pool),
        num_replicas=num,
        units_per_s=num * pool.rate.overall.units_per_s,
        is_healthy=healthy,
        num_starting=starting,
    ),
    st.sampled_from([BIG, SMALL]),
    st.integers(0, 8),
    st.floats(0, 200),
    st.booleans(),
    st.integers(0, 4),
)
FACTS = st.builds(
    RequestFacts,
    st.sampled_from([256, 512, 1024, 2048, 4096]),
    st.sampled_from([256, 512, 1024, 2048, 4096]),
    st.integers(1, 50),
    st.sampled_from(list(Priority)),
    st.none() | st.floats(0.1, 3600),
    st.booleans(),
    st.sampled_from([None, *RenderPath]),
)


@given(FACTS, st.lists(STATES, max_size=4), st.sampled_from([None, "h800", "consumer"]))
def test_whatever_is_chosen_is_up_can_draw_it_and_is_in_time(
    facts: RequestFacts, pools: list[PoolState], previous: str | None
) -> None:
    decision = choose_path(facts, pools, POLICY, previous=previous)
    allowed = {
        pool.traits.name
        for pool in pools
        if pool.is_healthy
        and facts.height * facts.width <= pool.traits.max_pixels
        and facts.pinned_path in (None, pool.traits.path)
    }
    latest_s = float("inf") if facts.is_job else facts.timeout_s or float("inf")
    is_right = isinstance(decision, Refusal) or (
        decision.pool in allowed and decision.option.least_completion_s <= latest_s
    )
    assert is_right


@given(FACTS, st.lists(STATES, min_size=1, max_size=4))
def test_what_is_late_by_estimate_goes_where_nothing_is_in_time(
    facts: RequestFacts, pools: list[PoolState]
) -> None:
    hurried = replace(facts, is_job=False, timeout_s=facts.timeout_s or 60.0)
    latest_s = hurried.timeout_s or 0.0

    decision = choose_path(hurried, pools, POLICY)

    able = [pool for pool in pools if pool.is_healthy and _can_draw(facts, pool)]
    roomy = [option for pool in able if not (option := predict(hurried, pool)).is_full]
    is_in_time = isinstance(decision, Choice) and decision.estimate_s <= latest_s
    assert is_in_time is any(option.completion_s <= latest_s for option in roomy)


def _can_draw(facts: RequestFacts, pool: PoolState) -> bool:
    fits = facts.height * facts.width <= pool.traits.max_pixels
    return fits and facts.pinned_path in (None, pool.traits.path)


@given(FACTS, st.lists(STATES, min_size=1, max_size=4), st.floats(0, 10))
def test_a_choice_costs_no_more_than_patience_allows(
    facts: RequestFacts, pools: list[PoolState], patience: float
) -> None:
    policy = RoutingPolicy(interactive_patience=patience, batch_patience=patience)
    decision = choose_path(facts, pools, policy)
    assume(isinstance(decision, Choice) and decision.reason is not Reason.COLD)
    assert isinstance(decision, Choice)
    others = [
        predict(facts, pool)
        for pool in pools
        if pool.is_healthy
        and pool.num_replicas
        and facts.height * facts.width <= pool.traits.max_pixels
        and facts.pinned_path in (None, pool.traits.path)
    ]
    latest_s = float("inf") if facts.is_job else facts.timeout_s or float("inf")
    roomy = [option for option in others if facts.is_job or not option.is_full]
    timely = [option for option in roomy if option.completion_s <= latest_s] or [
        option for option in roomy if option.least_completion_s <= latest_s
    ]
    least_s = min(cost_s(option, policy) for option in timely)
    most_s = least_s + patience * decision.option.own_s
    assert cost_s(decision.option, policy) <= most_s * (1 + 1e-9)


@given(FACTS, st.lists(STATES, max_size=4))
def test_a_refusal_says_when_to_come_back_unless_coming_back_is_of_no_use(
    facts: RequestFacts, pools: list[PoolState]
) -> None:
    decision = choose_path(facts, pools, POLICY)
    is_said = isinstance(decision, Choice) or ((decision.retry_after_s or 0) >= 1) is (
        decision.kind is not RefusalKind.TOO_LARGE
    )
    assert is_said


@given(FACTS, st.lists(STATES, min_size=1, max_size=4))
def test_a_job_is_refused_only_if_nothing_that_could_draw_it_is_up(
    facts: RequestFacts, pools: list[PoolState]
) -> None:
    decision = choose_path(replace(facts, is_job=True), pools, POLICY)
    kinds = {RefusalKind.TOO_LARGE, RefusalKind.UNAVAILABLE}
    assert isinstance(decision, Choice) or decision.kind in kinds
