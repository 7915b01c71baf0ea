"""A simulated text encoder or VAE decoder: replicas that take pictures in order."""

from heapq import heapify, heappop, heappush

from cluster.scaling import ScalingState
from deployments.simulator.plans import StagePlan


class SimulatedStage:
    """First come, first served, by whichever replica is free first."""

    def __init__(self, plan: StagePlan) -> None:
        self.plan = plan
        self.scaling = ScalingState(plan.scaling.min_replicas)
        self.num_replicas = 0
        self.paid_s = 0.0
        self.busy_s = 0.0
        self._free_s: list[float] = []
        self._since_s = 0.0

    def resize(self, num_replicas: int, now_s: float, ready_s: float) -> None:
        """Have so many replicas: more from `ready_s` on, or fewer, those that are free last."""
        self.pay_until(now_s)
        if num_replicas > self.num_replicas:
            for _ in range(num_replicas - self.num_replicas):
                heappush(self._free_s, ready_s)
        else:
            self._free_s = sorted(self._free_s)[:num_replicas]
            heapify(self._free_s)
        self.num_replicas = num_replicas

    def pay_until(self, now_s: float) -> None:
        """Add up replica seconds."""
        self.paid_s += self.num_replicas * (now_s - self._since_s)
        self._since_s = now_s

    def take(self, now_s: float, busy_s: float) -> float:
        """Take a picture and return when it is done; pictures come in order of time."""
        begin_s = max(now_s, heappop(self._free_s))
        heappush(self._free_s, begin_s + busy_s)
        self.busy_s += busy_s
        return begin_s + busy_s
