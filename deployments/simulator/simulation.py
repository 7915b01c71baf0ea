"""The event loop: arrivals, encoded prompts, finished parts, replicas that are ready, ticks."""

from collections import Counter, deque
from dataclasses import replace
from heapq import heappop, heappush
from math import inf

import numpy as np

from deployments.routing.decisions import PassWork, Refusal, RefusalKind
from deployments.routing.predictions import estimate_work
from deployments.simulator.dispatch import Assignment, Dispatcher, plan_turns
from deployments.simulator.outcome import Outcome, PartBill
from deployments.simulator.plans import ServicePlan, count_rows
from deployments.simulator.pool import SimulatedPool
from deployments.simulator.replica import SimulatedReplica
from deployments.simulator.scaler import Scaler
from deployments.simulator.stage import SimulatedStage
from deployments.simulator.step_loop import HeldPart, find_due_s
from deployments.simulator.traces import Trace
from pipeline.request import Priority

TICK_S = 1.0

Event = tuple[float, int, SimulatedPool | None, SimulatedReplica | None, int]
"""When, a serial number, and what: a part is done, a replica is ready (no replica), a tick."""


class Simulation:
    """One run of one trace through one plan."""

    def __init__(
        self,
        plan: ServicePlan,
        trace: Trace,
        dispatcher: Dispatcher,
        *,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Prepare a run.

        Args:
            plan: The service.
            trace: The requests.
            dispatcher: Who takes a request.
            noise: Standard deviation of the logarithm of a picture's denoising time.
            seed: Of the noise.
        """
        self._plan = plan
        self._trace = trace
        self._dispatcher = dispatcher
        self._pools = [SimulatedPool(pool) for pool in plan.pools]
        self._encoder = SimulatedStage(plan.text_encoder)
        self._decoder = SimulatedStage(plan.vae_decoder)
        draws = np.random.default_rng(seed)
        self._slowness: list[float] = np.exp(draws.normal(0.0, noise, len(trace))).tolist()
        self._kind_of: list[int] = trace.kind_of.tolist()
        self._times_s: list[float] = trace.times_s.tolist()
        self._encode_s = plan.text_encoder.busy_s(0)
        self._decode_s = [plan.vae_decoder.busy_s(f.height * f.width) for f in trace.kinds]
        self._kinds = [
            replace(facts, other_stages_s=self._encode_s + decode_s + plan.store_s)
            for facts, decode_s in zip(trace.kinds, self._decode_s, strict=True)
        ]
        counts = np.bincount(trace.kind_of, minlength=len(trace.kinds))
        mean_decode_s = float(np.average(self._decode_s, weights=counts))
        stages = [(self._encoder, self._encode_s), (self._decoder, mean_decode_s)]
        self._scaler = Scaler(self._pools, stages)
        self._encoded: deque[tuple[float, int, Assignment]] = deque()
        """Until when a prompt is encoded: all take equally long, so they end in order."""
        self._events: list[Event] = []
        self._serial = 0
        self._num_left = len(trace)
        self._parts_left: dict[int, int] = {}
        self._later_turns: dict[int, tuple[SimulatedPool, deque[PassWork]]] = {}
        self._latency_s = np.full(len(trace), np.nan)
        self._estimate_s = np.full(len(trace), np.nan)
        self._pool_of = np.full(len(trace), -1, dtype=np.int16)
        self._index_of = {id(pool): index for index, pool in enumerate(self._pools)}
        self._refusals: Counter[str] = Counter()

    def run(self) -> Outcome:
        """Run until every request is answered or refused."""
        self._scaler.set_up()
        self._push(TICK_S, None, None, 0)
        times_s, events = self._times_s, self._events
        encoded = self._encoded
        index, num_requests, now_s = 0, len(times_s), 0.0
        while self._num_left:
            arrival_s = times_s[index] if index < num_requests else inf
            encoded_s = encoded[0][0] if encoded else inf
            event_s = events[0][0]
            if arrival_s <= encoded_s and arrival_s <= event_s:
                now_s = arrival_s
                self._route(index, now_s)
                index += 1
            elif encoded_s <= event_s:
                now_s, request, assignment = encoded.popleft()
                self._send(request, assignment, now_s)
            else:
                now_s = event_s
                self._step(*heappop(events))
        return self._close(now_s)

    def _push(
        self, time_s: float, pool: SimulatedPool | None, replica: SimulatedReplica | None, mark: int
    ) -> None:
        self._serial += 1
        heappush(self._events, (time_s, self._serial, pool, replica, mark))

    def _step(
        self,
        now_s: float,
        _: int,
        pool: SimulatedPool | None,
        replica: SimulatedReplica | None,
        mark: int,
    ) -> None:
        if pool is None:
            self._tick(now_s)
        elif replica is None:
            self._begin(pool, now_s)
        elif mark == replica.version:
            self._finish(pool, replica, now_s)

    def _route(self, request: int, now_s: float) -> None:
        facts = self._kinds[self._kind_of[request]]
        assignment = self._dispatcher.assign(facts, self._pools, now_s)
        if isinstance(assignment, Refusal):
            self._refuse(assignment, now_s)
            return
        pool = assignment.pool
        pool.expect(assignment.work.units, now_s, is_batch=self._is_batch(request))
        self._pool_of[request] = self._index_of[id(pool)]
        self._estimate_s[request] = assignment.estimate_s
        self._encoded.append((self._encoder.take(now_s, self._encode_s), request, assignment))

    def _send(self, request: int, assignment: Assignment, now_s: float) -> None:
        facts = self._kinds[self._kind_of[request]]
        pool, work = assignment.pool, assignment.work
        pool.receive(work.units, is_batch=self._is_batch(request))
        if not pool.num_replicas:
            pool.waiting.append(request)
            pool.waiting_units += work.units
            return
        replica = self._dispatcher.choose_replica(assignment, facts, now_s)
        if replica is None:
            self._pool_of[request] = -1
            self._refuse(Refusal(RefusalKind.BUSY, 1, "every replica is full"), now_s)
        else:
            self._draw(request, assignment, replica, now_s)

    def _refuse(self, refusal: Refusal, now_s: float) -> None:
        self._num_left -= 1
        self._refusals[refusal.kind] += 1
        if refusal.nearest is None:
            return
        for pool in self._pools:
            if pool.traits is refusal.nearest.traits:
                pool.meter.count_refused(refusal.nearest.work.units, now_s)

    def _draw(
        self, request: int, assignment: Assignment, replica: SimulatedReplica, now_s: float
    ) -> None:
        pool, (first, *later) = assignment.pool, plan_turns(assignment)
        if later:
            self._later_turns[request] = (pool, deque(later))
            later_units = sum(one.units for one in later)
            pool.postpone(later_units, is_batch=self._is_batch(request))
        self._begin_turn(request, pool, first, now_s, replica)

    def _begin_turn(
        self,
        request: int,
        pool: SimulatedPool,
        turn: PassWork,
        now_s: float,
        replica: SimulatedReplica,
    ) -> None:
        if turn.num_tiles > 1:
            self._parts_left[request] = turn.num_tiles
        self._hold(request, pool, replica, turn, now_s)
        for _ in range(turn.num_tiles - 1):
            self._hold(request, pool, pool.take_turn(), turn, now_s)

    def _hold(
        self,
        request: int,
        pool: SimulatedPool,
        replica: SimulatedReplica,
        turn: PassWork,
        now_s: float,
    ) -> None:
        facts = self._kinds[self._kind_of[request]]
        forward_s = pool.plan.forward_s(turn.tile_units) * self._slowness[request]
        own_s = forward_s * turn.num_steps
        due_s, is_batch = find_due_s(own_s, facts.timeout_s, now_s), self._is_batch(request)
        pool.charge(replica, own_s, now_s, is_batch=is_batch)
        part = HeldPart(
            request,
            turn.num_steps,
            turn.tile_units,
            forward_s,
            due_s,
            is_batch=is_batch,
            num_rows=count_rows(turn.tile_units),
            overhead_s=pool.plan.overhead_s(turn.tile_units) * self._slowness[request],
        )
        replica.version += 1
        next_s = replica.loop.add(part, now_s)
        pool.settle(replica)
        self._push(next_s, pool, replica, replica.version)

    def _finish(self, pool: SimulatedPool, replica: SimulatedReplica, now_s: float) -> None:
        part = replica.loop.finish()
        pool.settle(replica)
        replica.version += 1
        if part is not None:
            pool.release(replica, now_s, is_batch=part.is_batch)
        if replica.loop.held:
            self._push(replica.loop.go_on(), pool, replica, replica.version)
        if part is not None:
            self._complete(pool, part, now_s)

    def _complete(self, pool: SimulatedPool, part: HeldPart, now_s: float) -> None:
        request = part.request
        if request in self._parts_left:
            self._parts_left[request] -= 1
            if self._parts_left[request]:
                return
            del self._parts_left[request]
        if request in self._later_turns:
            self._go_on(request, now_s)
            return
        self._answer(request, now_s)
        facts = self._kinds[self._kind_of[request]]
        num_forwards = facts.num_inference_steps * facts.forwards_per_step
        pool.learn(part.forward_units * num_forwards, num_forwards, num_forwards * part.took_s)

    def _go_on(self, request: int, now_s: float) -> None:
        pool, turns = self._later_turns[request]
        turn = turns.popleft()
        if not turns:
            del self._later_turns[request]
        pool.postpone(-turn.units, is_batch=self._is_batch(request))
        self._begin_turn(request, pool, turn, now_s, pool.take_turn())

    def _answer(self, request: int, now_s: float) -> None:
        decoded_s = self._decoder.take(now_s, self._decode_s[self._kind_of[request]])
        self._latency_s[request] = decoded_s + self._plan.store_s - self._times_s[request]
        self._num_left -= 1

    def _begin(self, pool: SimulatedPool, now_s: float) -> None:
        # One event a replica that was ever asked for: some were called off meanwhile.
        while pool.starting and pool.starting[0][0] <= now_s:
            pool.join_next()
        if pool.waiting and pool.num_replicas:
            for request in list(pool.take_waiting()):
                self._place_waiting(request, pool, now_s)

    def _place_waiting(self, request: int, pool: SimulatedPool, now_s: float) -> None:
        facts = self._kinds[self._kind_of[request]]
        assignment = Assignment(pool, estimate_work(facts, pool.traits))
        replica = self._dispatcher.choose_replica(assignment, facts, now_s)
        self._draw(request, assignment, replica or pool.take_turn(), now_s)

    def _is_batch(self, request: int) -> bool:
        return self._kinds[self._kind_of[request]].priority is Priority.BATCH

    def _tick(self, now_s: float) -> None:
        for ready_s, pool in self._scaler.tick(now_s):
            self._push(ready_s, pool, None, 0)
        self._push(now_s + TICK_S, None, None, 0)

    def _close(self, now_s: float) -> Outcome:
        for pool in self._pools:
            pool.close(now_s)
        for stage in (self._encoder, self._decoder):
            stage.pay_until(now_s)
        bills = [
            PartBill(
                pool.traits.name,
                pool.paid_s,
                pool.busy_s,
                pool.plan.price_per_hour,
                pool.plan.units_per_s,
            )
            for pool in self._pools
        ] + [
            PartBill(stage.plan.name, stage.paid_s, stage.busy_s, stage.plan.price_per_hour)
            for stage in (self._encoder, self._decoder)
        ]
        return Outcome(
            trace=self._trace,
            latency_s=self._latency_s,
            estimate_s=self._estimate_s,
            pool_of=self._pool_of,
            pool_names=tuple(pool.traits.name for pool in self._pools),
            refusals=self._refusals,
            bills=bills,
            ticks_s=self._scaler.ticks_s,
            series=self._scaler.series,
            end_s=now_s,
        )
