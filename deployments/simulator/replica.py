"""One simulated replica of a denoiser pool."""

from deployments.simulator.plans import PoolPlan
from deployments.simulator.step_loop import StepLoop


class SimulatedReplica:
    """A step loop, and how much work it still has."""

    __slots__ = (
        "free_s",
        "interactive_free_s",
        "is_draining",
        "loop",
        "num_interactive",
        "serial",
        "started_s",
        "version",
    )

    def __init__(self, serial: int, plan: PoolPlan, started_s: float) -> None:
        self.serial = serial
        self.started_s = started_s
        """When its node was asked for: from then on it is paid."""
        self.loop = StepLoop(plan.step_units, plan.sharing)
        self.free_s = 0.0
        """When it will have done all it holds, if nothing more comes."""
        self.interactive_free_s = 0.0
        self.num_interactive = 0
        self.is_draining = False
        self.version = 0
        """Counts changes of company: an event that was planned before one is void."""

    @property
    def num_ongoing(self) -> int:
        """Requests it holds, as Ray's own request router counts them."""
        return len(self.loop.held)
