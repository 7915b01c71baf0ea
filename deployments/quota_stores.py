"""Where the use of each key is counted: in this process, or in Redis for several routers."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from deployments.errors import RETRY_AFTER_S, DependencyError
from deployments.log import logger
from deployments.quotas import (
    CONCURRENCY_RETRY_S,
    QuotaDecision,
    QuotaLimits,
    QuotaUse,
    Reason,
    charge,
    decay,
    refund,
    windows,
)

_NAMESPACE: Final = "zimage:quota"
_TIMEOUT_S: Final = 2.0


class QuotaStore(Protocol):
    """Counts use and running calls, by key."""

    async def charge(
        self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str, lease_s: float
    ) -> QuotaDecision:
        """Let a call in, charge it and count it as running, or do nothing.

        Args:
            key_id: Whose it is.
            limits: What the key may use.
            units: What the call costs.
            call_id: Tells running calls apart.
            lease_s: After this it no longer counts as running, if its router has died.

        Raises:
            DependencyError: If the count cannot be reached.
        """
        ...

    async def finish(self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str) -> None:
        """Count a call as running no more, and give `units` of it back."""
        ...


class MemoryQuotaStore:
    """Counts in this process: for one router. A restart forgets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._use: dict[str, QuotaUse] = {}
        self._leases: defaultdict[str, dict[str, float]] = defaultdict(dict)

    async def charge(
        self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str, lease_s: float
    ) -> QuotaDecision:
        """See `QuotaStore.charge`."""
        now_s = self._clock()
        leases = {id: end_s for id, end_s in self._leases[key_id].items() if end_s > now_s}
        self._leases[key_id] = leases
        use = replace(self._use.get(key_id, QuotaUse(at_s=now_s)), num_running=len(leases))
        decision = charge(use, limits, units, now_s)
        self._use[key_id] = decision.use
        if decision.refused is None:
            leases[call_id] = now_s + lease_s
        return decision

    async def finish(self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str) -> None:
        """See `QuotaStore.finish`."""
        self._leases[key_id].pop(call_id, None)
        use = decay(self._use.get(key_id, QuotaUse()), limits, self._clock())
        self._use[key_id] = refund(use, units)


# The same rule as `quotas.charge`, where the numbers are: no other router comes between.
_CHARGE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local units, minute = tonumber(ARGV[1]), tonumber(ARGV[2])
local day, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local use = redis.call('HMGET', KEYS[1], 'minute', 'day', 'at')
local elapsed = math.max(0, now - (tonumber(use[3]) or now))
local function decayed(used, limit, period)
  if limit < 0 then return 0 end
  return math.max(0, (tonumber(used) or 0) - elapsed * limit / period)
end
local used_minute, used_day = decayed(use[1], minute, 60), decayed(use[2], day, 86400)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local running = redis.call('ZCARD', KEYS[2])
local fits = (minute < 0 or used_minute + units <= minute) and (day < 0 or used_day + units <= day)
local free = most < 0 or running < most
local admitted = 0
if fits and free then
  admitted = 1
  used_minute, used_day, running = used_minute + units, used_day + units, running + 1
  redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[5])
  redis.call('EXPIRE', KEYS[2], 90000)
end
redis.call('HSET', KEYS[1], 'minute', used_minute, 'day', used_day, 'at', now)
redis.call('EXPIRE', KEYS[1], 90000)
return {admitted, tostring(used_minute), tostring(used_day), running}
"""

_FINISH: Final = """
redis.call('ZREM', KEYS[2], ARGV[2])
local use = redis.call('HMGET', KEYS[1], 'minute', 'day')
for position, field in ipairs({'minute', 'day'}) do
  if use[position] then
    redis.call('HSET', KEYS[1], field, math.max(0, tonumber(use[position]) - ARGV[1]))
  end
end
"""


class RedisQuotaStore:
    """Counts in Redis, by its clock: for several routers. Nothing is let in while it is away."""

    def __init__(self, url: str, *, namespace: str = _NAMESPACE) -> None:
        self._redis: Any = Redis.from_url(
            url, protocol=2, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )
        self._namespace = namespace
        self._charge = self._redis.register_script(_CHARGE)
        self._finish = self._redis.register_script(_FINISH)

    async def charge(
        self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str, lease_s: float
    ) -> QuotaDecision:
        """See `QuotaStore.charge`."""
        bounds = (limits.units_per_minute, limits.units_per_day, limits.max_concurrent_requests)
        arguments = [units, *(-1 if bound is None else bound for bound in bounds), call_id, lease_s]
        try:
            admitted, minute, day, running = await self._charge(self._keys(key_id), arguments)
        except RedisError as exc:
            await self._leave_server()
            logger.error("quotas cannot be counted: %s", type(exc).__name__)
            raise DependencyError("quotas could not be counted", None, RETRY_AFTER_S) from exc
        use = QuotaUse(float(minute), float(day), int(running))
        return QuotaDecision(use, None) if admitted else _explain(use, limits, units)

    async def finish(self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str) -> None:
        """See `QuotaStore.finish`. If Redis is away, the lease's end frees the place."""
        try:
            await self._finish(self._keys(key_id), [units, call_id])
        except RedisError as exc:
            await self._leave_server()
            logger.error("call %s could not be given back: %s", call_id, type(exc).__name__)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _leave_server(self) -> None:
        # It may live on as the replica of another, and refuse whatever comes by what is open.
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    def _keys(self, key_id: str) -> list[str]:
        # Both keys of a caller lie in one slot of a Redis cluster.
        return [f"{self._namespace}:{{{key_id}}}:use", f"{self._namespace}:{{{key_id}}}:running"]


def _explain(use: QuotaUse, limits: QuotaLimits, units: float) -> QuotaDecision:
    waits = {name: window.wait_s(units) for name, window in windows(use, limits).items()}
    reason: Reason = max(waits, key=waits.__getitem__, default="concurrency")
    wait_s = waits.get(reason, 0.0)
    if wait_s > 0:
        return QuotaDecision(use, reason, wait_s)
    return QuotaDecision(use, "concurrency", CONCURRENCY_RETRY_S)
