"""The scaling decisions of a simulation, once a tick, and what they are recorded as."""

from collections.abc import Sequence

from cluster.scaling import LeadPool, desired_replicas, follow
from deployments.simulator.outcome import Series
from deployments.simulator.pool import SimulatedPool
from deployments.simulator.stage import SimulatedStage

Start = tuple[float, SimulatedPool]
"""When a replica will take work, and of which pool."""


class Scaler:
    """Scales denoisers by their demand, and the other stages by the denoisers'."""

    def __init__(
        self,
        pools: Sequence[SimulatedPool],
        stages: Sequence[tuple[SimulatedStage, float]],
    ) -> None:
        """Take what is scaled; each stage comes with its busy seconds a picture."""
        self._pools = pools
        self._stages = stages
        self.ticks_s: list[float] = []
        self.series = [Series(pool.traits.name) for pool in pools]

    def set_up(self) -> None:
        """Have the fewest replicas of everything, warm."""
        for pool in self._pools:
            for _ in range(pool.plan.scaling.min_replicas):
                pool.join_warm(0.0)
        for stage, _ in self._stages:
            stage.resize(stage.plan.scaling.min_replicas, 0.0, 0.0)

    def tick(self, now_s: float) -> list[Start]:
        """Decide, begin to start replicas and retire others."""
        self.ticks_s.append(now_s)
        starts: list[Start] = []
        leads = [self._scale_pool(pool, now_s, starts) for pool in self._pools]
        for pool, series in zip(self._pools, self.series, strict=True):
            _record(pool, series)
        for stage, busy_s in self._stages:
            _scale_stage(stage, busy_s, leads, now_s)
        return starts

    def _scale_pool(self, pool: SimulatedPool, now_s: float, starts: list[Start]) -> LeadPool:
        pool.refresh(now_s)
        units_per_picture = pool.mean_units()
        demand = pool.demand(now_s)
        policy = pool.plan.scaling
        pool.scaling = desired_replicas(policy, demand, pool.scaling, now_s)
        wanted = pool.scaling.num_replicas - pool.num_replicas - len(pool.starting)
        starts.extend((pool.start(now_s), pool) for _ in range(wanted))
        for _ in range(-wanted):
            pool.retire(now_s)
        return LeadPool(policy, demand, pool.scaling.num_replicas, units_per_picture)


def _record(pool: SimulatedPool, series: Series) -> None:
    series.num_replicas.append(pool.num_replicas)
    series.num_busy.append(pool.num_busy)
    series.backlog_s.append(pool.backlog_units / pool.units_per_s if pool.units_per_s else 0.0)


def _scale_stage(
    stage: SimulatedStage, busy_s: float, leads: Sequence[LeadPool], now_s: float
) -> None:
    demand = follow(leads, busy_s)
    stage.scaling = desired_replicas(stage.plan.scaling, demand, stage.scaling, now_s)
    if stage.scaling.num_replicas != stage.num_replicas:
        stage.resize(stage.scaling.num_replicas, now_s, now_s + stage.plan.start_up_s)
