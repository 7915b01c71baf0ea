import pytest

from cluster.errors import PlacementError
from cluster.placement import NodeKind, ReplicaNeed, check_nodes
from cluster.profiles import CONSUMER_16GB, CPU, H800

BIG = ReplicaNeed("DenoiserH800", H800, 14.0, label_selector={"pool": "h800"})
CPU_NODE = NodeKind("cpu", {"pool": "cpu"}, num_cpus=8, num_gpus=0)
BIG_NODE = NodeKind("h800", {"pool": "h800"}, num_cpus=16, num_gpus=2, max_nodes=3)


def test_a_need_is_said_in_rays_words() -> None:
    assert BIG.to_ray_actor_options() == {
        "num_cpus": 1.0,
        "num_gpus": 1.0,
        "label_selector": {"pool": "h800"},
    }


def test_a_need_without_labels_has_no_selector() -> None:
    need = ReplicaNeed("TextEncoder", CPU, 8.0, num_gpus=0)
    assert need.to_ray_actor_options() == {"num_cpus": 1.0, "num_gpus": 0}


@pytest.mark.parametrize("num_gpus", [-1, 0.01, 1.5])
def test_a_gpu_share_that_ray_cannot_place_is_refused(num_gpus: float) -> None:
    with pytest.raises(PlacementError, match="num_gpus of TextEncoder must be whole or in"):
        ReplicaNeed("TextEncoder", CONSUMER_16GB, 8.0, num_gpus=num_gpus)


def test_a_node_type_that_is_not_started_yet_counts() -> None:
    check_nodes([BIG], [CPU_NODE, BIG_NODE])


def test_a_deployment_without_a_node_is_told_why_each_kind_will_not_do() -> None:
    small_node = NodeKind("consumer", {"pool": "consumer-16gb"}, num_cpus=4, num_gpus=1)
    with pytest.raises(PlacementError) as failure:
        check_nodes([BIG], [CPU_NODE, small_node])
    assert str(failure.value) == (
        "no node can ever hold a replica of DenoiserH800 (1 GPU, 1 CPU, labels {'pool': 'h800'}): "
        "cpu: label pool must be h800, is cpu, has 0 GPUs of 1; "
        "consumer: label pool must be h800, is consumer-16gb"
    )


def test_a_cluster_without_nodes_is_said_to_be_one() -> None:
    with pytest.raises(PlacementError, match="has no nodes and can start none"):
        check_nodes([BIG], [])


def test_a_card_that_is_too_small_for_the_peak_is_no_place() -> None:
    node = NodeKind("h800", {"pool": "h800"}, num_cpus=16, num_gpus=1, card_memory_gib=12.0)
    with pytest.raises(PlacementError, match=r"has 12\.0 GiB of 14\.0 on a card"):
        check_nodes([BIG], [node])


def test_more_replicas_than_the_nodes_can_ever_hold_are_refused() -> None:
    need = ReplicaNeed("DenoiserH800", H800, 14.0, min_replicas=7, max_replicas=9)
    with pytest.raises(PlacementError, match=r"must be at most 6, .* got 7"):
        check_nodes([need], [BIG_NODE])


def test_nodes_without_bound_hold_any_number() -> None:
    need = ReplicaNeed("Denoiser", H800, 14.0, min_replicas=1000, max_replicas=1000)
    check_nodes([need], [NodeKind("h800", {}, num_cpus=8, num_gpus=1, max_nodes=None)])


def test_shares_are_counted_by_card_and_by_cpu() -> None:
    need = ReplicaNeed("Vae", H800, 3.0, num_gpus=0.25, num_cpus=4, min_replicas=5, max_replicas=9)
    with pytest.raises(PlacementError, match="must be at most 4"):
        check_nodes([need], [NodeKind("h800", {}, num_cpus=16, num_gpus=2)])
