import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cards import check_cards
from cluster.errors import PlacementError
from cluster.placement import ReplicaNeed
from cluster.profiles import CONSUMER_16GB, H800


def share(
    deployment: str, memory_peak_gib: float, num_gpus: float, max_replicas: int = 8, pool: str = "a"
) -> ReplicaNeed:
    return ReplicaNeed(
        deployment,
        CONSUMER_16GB,
        memory_peak_gib,
        num_gpus=num_gpus,
        label_selector={"pool": pool},
        max_replicas=max_replicas,
    )


def test_an_encoder_and_a_vae_decoder_share_a_16_gb_card() -> None:
    check_cards([share("TextEncoder", 7.8, 0.6), share("VaeDecoder", 2.6, 0.4, 1)])


def test_two_of_the_same_on_one_card_are_summed() -> None:
    with pytest.raises(PlacementError) as failure:
        check_cards([share("TextEncoder", 7.8, 0.5)])
    assert str(failure.value) == (
        "replicas that may share a card must fit in 14.75 GiB, got 15.6 GiB: "
        "2 x TextEncoder (7.8 GiB, 0.5 GPU)"
    )


def test_a_deployment_that_never_has_two_replicas_does_not_meet_itself() -> None:
    check_cards([share("TextEncoder", 7.8, 0.5, max_replicas=1)])


def test_different_deployments_on_one_card_are_summed() -> None:
    with pytest.raises(PlacementError, match=r"got 17\.5 GiB: 1 x TextEncoder .* 1 x VaeDecoder"):
        check_cards([share("TextEncoder", 7.8, 0.5, 1), share("VaeDecoder", 9.7, 0.5, 1)])


def test_deployments_on_different_nodes_never_meet() -> None:
    check_cards([share("TextEncoder", 7.8, 0.5, 1), share("VaeDecoder", 9.7, 0.5, 1, pool="b")])


def test_the_smaller_profile_bounds_a_shared_card() -> None:
    big = ReplicaNeed("Denoiser", H800, 14.0, num_gpus=0.5, label_selector={"pool": "a"})
    with pytest.raises(PlacementError, match=r"must fit in 14\.75 GiB, got 16"):
        check_cards([big, share("VaeDecoder", 2.6, 0.5, 1)])


def test_a_whole_card_must_hold_its_only_replica() -> None:
    with pytest.raises(PlacementError, match=r"must fit in 14\.75 GiB, got 23\.6"):
        check_cards([share("Denoiser", 23.6, 1)])


@given(st.floats(0.1, 14.75), st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.5, 1.0]))
def test_a_share_of_memory_no_larger_than_the_share_of_the_card_always_fits(
    peak_gib: float, num_gpus: float
) -> None:
    needs = [share("A", peak_gib * num_gpus, num_gpus), share("B", 14.75 * num_gpus, num_gpus)]
    check_cards(needs)
