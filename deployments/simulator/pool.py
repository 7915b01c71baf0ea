"""A simulated pool: a `PoolStatus` that costs nothing to read, and its replicas by backlog."""

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush

from cluster.rates import ReplicaRate, guess_rate
from cluster.scaling import PoolDemand, ScalingState
from deployments.demand import PoolMeter
from deployments.routing.pools import share_of_mean_wait
from deployments.simulator.errors import PlanError
from deployments.simulator.plans import PoolPlan
from deployments.simulator.replica import SimulatedReplica
from pipeline.request import RenderPath

_ALWAYS_LEARNT = 50
_LEARN_EVERY = 16


class SimulatedPool:
    """One pool of denoisers."""

    def __init__(self, plan: PoolPlan) -> None:
        self.plan = plan
        self.traits = plan.traits
        self.rate: ReplicaRate = guess_rate(plan.units_per_s)
        self.is_healthy = True
        self.replicas: list[SimulatedReplica] = []
        self.starting: deque[tuple[float, SimulatedReplica]] = deque()
        self.waiting: deque[int] = deque()
        """Requests that wait for a first replica."""
        self.waiting_units = 0.0
        self._coming_units = [0.0, 0.0]
        """Work that no replica holds yet, its prompt being encoded or an earlier step under way:
        interactive, batch."""
        self._num_coming = 0
        self.scaling = ScalingState(plan.scaling.min_replicas)
        self.meter = PoolMeter(0.0)
        self._sent_units = 0.0
        self._num_sent = 0
        self._units_per_picture = 1.0
        self.num_replicas = 0
        self.num_starting = 0
        self.start_left_s = plan.traits.start_up_s
        self.backlog_units = 0.0
        self.interactive_backlog_units = 0.0
        self.wait_s = 0.0
        self.interactive_wait_s = 0.0
        self.max_backlog_units = 0.0
        self.units_per_s = 0.0
        self.paid_s = 0.0
        self.busy_s = 0.0
        self.num_busy = 0
        self.num_idle_replicas = 0
        self.num_resting = 0
        """Idle replicas, those included that work is on its way to."""
        self._idle: list[SimulatedReplica] = []
        """Last idle last; those that are not idle any more are dropped when they come up."""
        self._keeps_order = False
        """Whether somebody asks for the least loaded."""
        self._by_free: list[tuple[float, int, SimulatedReplica]] = []
        self._by_interactive_free: list[tuple[float, int, SimulatedReplica]] = []
        self._sum_free_s = 0.0
        self._sum_interactive_free_s = 0.0
        self._num_interactive_busy = 0
        self._num_finished = 0
        self._serial = 0
        self._turn = 0

    def refresh(self, now_s: float, *, is_least_loaded: bool = True) -> None:
        """Bring what depends on the time up to date.

        Args:
            now_s: The time.
            is_least_loaded: Whether replicas are chosen by their backlog, unlike in the service.
        """
        units_per_s = self.rate.overall.units_per_s
        busy_s = max(0.0, self._sum_free_s - self.num_busy * now_s)
        coming, coming_batch = self._coming_units
        self.backlog_units = busy_s * units_per_s + self.waiting_units + coming + coming_batch
        busy_s = max(0.0, self._sum_interactive_free_s - self._num_interactive_busy * now_s)
        self.interactive_backlog_units = busy_s * units_per_s + self.waiting_units + coming
        self.num_idle_replicas = max(0, self.num_resting - self._num_coming)
        self.units_per_s = self.num_replicas * units_per_s
        if is_least_loaded and self.traits.path is not RenderPath.TILED:
            self._expect_least(now_s)
        else:
            self._expect_mean(now_s)
        self.num_starting = len(self.starting)
        if self.starting:
            self.start_left_s = max(0.0, self.starting[0][0] - now_s)

    def _expect_least(self, now_s: float) -> None:
        self.wait_s = self.interactive_wait_s = 0.0
        if self.num_idle_replicas or not self.num_replicas:
            return
        coming, coming_batch = self._coming_units
        least = self.find_least_loaded(is_batch=True)
        if least is not None and least.loop.held:
            self.wait_s = least.free_s - now_s
        self.wait_s += (coming + coming_batch) / self.units_per_s
        least = self.find_least_loaded(is_batch=False)
        if least is not None and least.num_interactive:
            self.interactive_wait_s = least.interactive_free_s - now_s
        self.interactive_wait_s += coming / self.units_per_s

    def _expect_mean(self, now_s: float) -> None:
        self.wait_s = self.interactive_wait_s = 0.0
        if not self.num_replicas:
            return
        coming, coming_batch = self._coming_units
        busy_s = self._sum_free_s - self.num_busy * now_s
        wait_s = busy_s / self.num_replicas + (coming + coming_batch) / self.units_per_s
        busy_s = self._sum_interactive_free_s - self._num_interactive_busy * now_s
        interactive_wait_s = busy_s / self.num_replicas + coming / self.units_per_s
        share = share_of_mean_wait(self.num_replicas, self.num_idle_replicas)
        self.wait_s, self.interactive_wait_s = share * wait_s, share * interactive_wait_s

    def expect(self, units: float, now_s: float, *, is_batch: bool) -> None:
        """Count a request that the pool was chosen for, before it reaches a replica."""
        self.meter.count_sent(units, now_s)
        self._coming_units[is_batch] += units
        self._num_coming += 1
        self._sent_units += units
        self._num_sent += 1

    def receive(self, units: float, *, is_batch: bool) -> None:
        """Count that an expected request has come."""
        self._coming_units[is_batch] -= units
        self._num_coming -= 1

    def postpone(self, units: float, *, is_batch: bool) -> None:
        """Count later steps of a picture whose first one begins; less than 0 as they begin."""
        self._coming_units[is_batch] += units

    def mean_units(self) -> float:
        """Return the mean cost of what came since the last call, or the last such mean."""
        if self._num_sent:
            self._units_per_picture = self._sent_units / self._num_sent
        self._sent_units, self._num_sent = 0.0, 0
        return self._units_per_picture

    def demand(self, now_s: float) -> PoolDemand:
        """Return what the scaling policy reads."""
        asked = self.meter.read(now_s)
        return PoolDemand(
            replica_units_per_s=self.rate.overall.units_per_s,
            backlog_units=self.backlog_units - self.waiting_units,
            waiting_units=self.waiting_units,
            arriving_units_per_s=asked.arriving_units_per_s,
            refused_units_per_s=asked.refused_units_per_s,
        )

    def start(self, now_s: float) -> float:
        """Ask for one more replica and return when it takes work."""
        self._serial += 1
        replica = SimulatedReplica(self._serial, self.plan, now_s)
        ready_s = now_s + self.traits.start_up_s
        self.starting.append((ready_s, replica))
        return ready_s

    def join_next(self) -> SimulatedReplica:
        """Let the replica that was started first take work."""
        _, replica = self.starting.popleft()
        return self._join(replica)

    def join_warm(self, now_s: float) -> None:
        """Add a replica that is there from the beginning."""
        self._serial += 1
        self._join(SimulatedReplica(self._serial, self.plan, now_s))

    def _join(self, replica: SimulatedReplica) -> SimulatedReplica:
        self.replicas.append(replica)
        self._rest(replica)
        self.num_replicas += 1
        self.max_backlog_units += self.traits.max_held_units
        return replica

    def retire(self, now_s: float) -> None:
        """Take one away: one that is starting, else the newest, once it has done its work."""
        if self.starting:
            _, unborn = self.starting.pop()
            self.paid_s += now_s - unborn.started_s
            return
        replica = self.replicas.pop()
        replica.is_draining = True
        self.num_replicas -= 1
        self.max_backlog_units -= self.traits.max_held_units
        if not replica.loop.held:
            self.num_resting -= 1
            self.leave(replica, now_s)

    def leave(self, replica: SimulatedReplica, now_s: float) -> None:
        """Stop paying for a replica."""
        self.paid_s += now_s - replica.started_s

    def close(self, now_s: float) -> None:
        """Pay for what is still up at the end of a simulation."""
        for replica in self.replicas:
            self.leave(replica, now_s)
        for _, replica in self.starting:
            self.leave(replica, now_s)

    def take_turn(self) -> SimulatedReplica:
        """Return one replica after another, of a pool that has some."""
        self._turn += 1
        return self.replicas[self._turn % self.num_replicas]

    def find_least_loaded(self, *, is_batch: bool) -> SimulatedReplica | None:
        """Return the replica that would begin first, or None if there is none."""
        if not self._keeps_order:
            self._keeps_order = True
            for replica in self.replicas:
                self._put_in_order(replica)
        while self._idle:
            replica = self._idle[-1]
            if not replica.loop.held and not replica.is_draining:
                return replica
            self._idle.pop()
        heap = self._by_free if is_batch else self._by_interactive_free
        while heap:
            free_s, _, replica = heap[0]
            known_s = replica.free_s if is_batch else replica.interactive_free_s
            if free_s == known_s and not replica.is_draining:
                return replica
            heappop(heap)
        return None

    def get_least_loaded(self, *, is_batch: bool) -> SimulatedReplica:
        """Return the replica that would begin first, of a pool that has some."""
        replica = self.find_least_loaded(is_batch=is_batch)
        if replica is None:
            raise PlanError(f"pool {self.traits.name} must have a replica to place work")
        return replica

    def charge(
        self, replica: SimulatedReplica, own_s: float, now_s: float, *, is_batch: bool
    ) -> None:
        """Account for work that a replica is given."""
        if not replica.loop.held:
            self.num_resting -= 1
            replica.free_s = now_s
            self.num_busy += 1
            self._sum_free_s += now_s
        replica.free_s += own_s
        self._sum_free_s += own_s
        self.busy_s += own_s
        if not is_batch:
            self._charge_interactive(replica, own_s, now_s)
        if self._keeps_order:
            self._put_in_order(replica)

    def _put_in_order(self, replica: SimulatedReplica) -> None:
        heappush(self._by_free, (replica.free_s, replica.serial, replica))
        heappush(self._by_interactive_free, (replica.interactive_free_s, replica.serial, replica))

    def _charge_interactive(self, replica: SimulatedReplica, own_s: float, now_s: float) -> None:
        if not replica.num_interactive:
            replica.interactive_free_s = now_s
            self._num_interactive_busy += 1
            self._sum_interactive_free_s += now_s
        replica.num_interactive += 1
        replica.interactive_free_s += own_s
        self._sum_interactive_free_s += own_s

    def settle(self, replica: SimulatedReplica) -> None:
        """Take off what pictures that shared forwards did not cost: they were charged as alone."""
        interactive_s, batch_s = replica.loop.take_saved_s()
        saved_s = interactive_s + batch_s
        if not saved_s:
            return
        replica.free_s -= saved_s
        self._sum_free_s -= saved_s
        self.busy_s -= saved_s
        replica.interactive_free_s -= interactive_s
        self._sum_interactive_free_s -= interactive_s
        if self._keeps_order:
            self._put_in_order(replica)

    def release(self, replica: SimulatedReplica, now_s: float, *, is_batch: bool) -> None:
        """Account for work that a replica has done."""
        if not is_batch:
            replica.num_interactive -= 1
            if not replica.num_interactive:
                self._num_interactive_busy -= 1
                self._sum_interactive_free_s -= replica.interactive_free_s
        if replica.loop.held:
            return
        self.num_busy -= 1
        self._sum_free_s -= replica.free_s
        if replica.is_draining:
            self.leave(replica, now_s)
        else:
            self._rest(replica)

    def _rest(self, replica: SimulatedReplica) -> None:
        self._idle.append(replica)
        self.num_resting += 1

    def learn(self, units: float, num_forwards: int, run_s: float) -> None:
        """Take in what a replica reports of a request: all of the first, then some."""
        self._num_finished += 1
        if self._num_finished <= _ALWAYS_LEARNT or not self._num_finished % _LEARN_EVERY:
            self.rate = self.rate.observe(units, num_forwards, run_s)

    def take_waiting(self) -> Iterator[int]:
        """Hand out the requests that waited for a first replica."""
        while self.waiting:
            yield self.waiting.popleft()
        self.waiting_units = 0.0
