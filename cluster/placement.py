"""Where replicas may run: Ray's options for a pool, and whether a node can ever hold it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cluster.errors import PlacementError
from cluster.labels import find_mismatches
from cluster.profiles import GpuProfile

MIN_FRACTION: Final = 0.05
"""The smallest share of a card that is worth its own CUDA context."""


@dataclass(frozen=True)
class ReplicaNeed:
    """What one replica of a deployment asks of its node.

    Raises:
        PlacementError: If the GPU share is none that Ray can place.
    """

    deployment: str
    profile: GpuProfile
    memory_peak_gib: float
    """The most it uses on its card (or in its node's memory on a CPU), weights included."""
    num_gpus: float = 1.0
    num_cpus: float = 1.0
    label_selector: Mapping[str, str] = field(default_factory=dict)
    min_replicas: int = 0
    max_replicas: int = 1

    def __post_init__(self) -> None:
        is_share = MIN_FRACTION <= self.num_gpus < 1
        is_whole = self.num_gpus >= 0 and float(self.num_gpus).is_integer()
        if not is_share and not is_whole:
            raise PlacementError(
                f"num_gpus of {self.deployment} must be whole or in [{MIN_FRACTION}, 1), "
                f"got {self.num_gpus}"
            )

    def to_ray_actor_options(self) -> dict[str, object]:
        """Say it in Ray's words."""
        options: dict[str, object] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.label_selector:
            options["label_selector"] = dict(self.label_selector)
        return options


@dataclass(frozen=True)
class NodeKind:
    """A node that runs, or a node type that the autoscaler may start."""

    name: str
    labels: Mapping[str, str]
    num_cpus: float
    num_gpus: float
    card_memory_gib: float | None = None
    """Of one card; None where nobody knows it before the node runs."""
    max_nodes: int | None = 1
    """How many there can ever be; None is no bound."""


def check_nodes(needs: Sequence[ReplicaNeed], kinds: Sequence[NodeKind]) -> None:
    """Check that every deployment has nodes that could hold its fewest replicas, each on its own.

    Raises:
        PlacementError: If one has not; the message says of each kind of node why not.
    """
    for need in needs:
        if not any(not _find_obstacles(need, kind) for kind in kinds):
            raise PlacementError(_explain(need, kinds))
        most = _count_places(need, kinds)
        if most is not None and most < need.min_replicas:
            raise PlacementError(
                f"min_replicas of {need.deployment} must be at most {most}, "
                f"which is all that its nodes can ever hold, got {need.min_replicas}"
            )


def _find_obstacles(need: ReplicaNeed, kind: NodeKind) -> list[str]:
    obstacles = find_mismatches(need.label_selector, kind.labels)
    if kind.num_gpus < need.num_gpus:
        obstacles.append(f"has {kind.num_gpus:g} GPUs of {need.num_gpus:g}")
    if kind.num_cpus < need.num_cpus:
        obstacles.append(f"has {kind.num_cpus:g} CPUs of {need.num_cpus:g}")
    if need.num_gpus and (kind.card_memory_gib or need.memory_peak_gib) < need.memory_peak_gib:
        obstacles.append(f"has {kind.card_memory_gib} GiB of {need.memory_peak_gib} on a card")
    return obstacles


def _explain(need: ReplicaNeed, kinds: Sequence[NodeKind]) -> str:
    asked = f"{need.num_gpus:g} GPU, {need.num_cpus:g} CPU, labels {dict(need.label_selector)}"
    reasons = [f"{kind.name}: {', '.join(_find_obstacles(need, kind))}" for kind in kinds]
    offered = "; ".join(reasons) if reasons else "the cluster has no nodes and can start none"
    return f"no node can ever hold a replica of {need.deployment} ({asked}): {offered}"


def _count_places(need: ReplicaNeed, kinds: Sequence[NodeKind]) -> int | None:
    total = 0
    for kind in kinds:
        if _find_obstacles(need, kind):
            continue
        if kind.max_nodes is None:
            return None
        total += kind.max_nodes * _count_on_one(need, kind)
    return total


def _count_on_one(need: ReplicaNeed, kind: NodeKind) -> int:
    by_gpu = _count_on_cards(need, kind) if need.num_gpus else need.min_replicas
    by_cpu = int(kind.num_cpus / need.num_cpus) if need.num_cpus else by_gpu
    return min(by_gpu, by_cpu)


def _count_on_cards(need: ReplicaNeed, kind: NodeKind) -> int:
    if need.num_gpus >= 1:
        return int(kind.num_gpus // need.num_gpus)
    return int(kind.num_gpus) * int(1 / need.num_gpus + 1e-9)
