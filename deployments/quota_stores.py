"""Where the use of each key is counted: in this process, or in Redis for several routers."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
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
    charge_again,
    decay,
    refund,
    windows,
)

_NAMESPACE: Final = "zimage:quota"
_TIMEOUT_S: Final = 2.0
_MAX_CONNECTIONS: Final = 32
"""Of one router; a call that finds none free waits for one, no longer than for an answer."""


class QuotaStore(Protocol):
    """Counts use and running calls, by key."""

    async def charge(
        self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str, lease_s: float
    ) -> QuotaDecision:
        """Let a call in, charge it and count it as running, or do nothing.

        A call that is counted as running is let in again, and charged no more.

        Args:
            key_id: Whose it is.
            limits: What the key may use.
            units: What the call costs.
            call_id: Tells running calls apart.
            lease_s: After this it no longer counts as running, if its router has died.

        Raises:
            DependencyError: If the count cannot be reached; the call may be charged all the same.
        """
        ...

    async def finish(self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str) -> None:
        """Count a call as running no more, and give back what has not decayed of `units`.

        Nothing is given back of a call that is not counted as running.

        Raises:
            DependencyError: If the count cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Let go of what the count is reached by."""
        ...


@dataclass(frozen=True)
class _Lease:
    charged_s: float
    end_s: float


class MemoryQuotaStore:
    """Counts in this process: for one router. A restart forgets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._use: dict[str, QuotaUse] = {}
        self._leases: defaultdict[str, dict[str, _Lease]] = defaultdict(dict)

    async def charge(
        self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str, lease_s: float
    ) -> QuotaDecision:
        """See `QuotaStore.charge`."""
        now_s = self._clock()
        leases = {id: each for id, each in self._leases[key_id].items() if each.end_s > now_s}
        self._leases[key_id] = leases
        use = replace(self._use.get(key_id, QuotaUse(at_s=now_s)), num_running=len(leases))
        running = leases.get(call_id)
        if running is None:
            decision = charge(use, limits, units, now_s)
        else:
            decision = charge_again(use, limits, now_s)
        self._use[key_id] = decision.use
        if decision.refused is None:
            charged_s = now_s if running is None else running.charged_s
            leases[call_id] = _Lease(charged_s, now_s + lease_s)
        return decision

    async def finish(self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str) -> None:
        """See `QuotaStore.finish`."""
        running = self._leases[key_id].pop(call_id, None)
        if running is None:
            return
        now_s = self._clock()
        use = decay(self._use[key_id], limits, now_s)
        self._use[key_id] = refund(use, limits, units, now_s - running.charged_s)

    async def close(self) -> None:
        """See `QuotaStore.close`."""


# The same rules as in `quotas`, where the numbers are: no other router comes between.
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
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], ended)
  redis.call('HDEL', KEYS[3], ended)
end
local running = redis.call('ZCARD', KEYS[2])
local fits = (minute < 0 or used_minute + units <= minute) and (day < 0 or used_day + units <= day)
local free = most < 0 or running < most
local admitted = 0
if redis.call('ZSCORE', KEYS[2], ARGV[5]) then
  admitted = 1
elseif fits and free then
  admitted = 1
  used_minute, used_day, running = used_minute + units, used_day + units, running + 1
  redis.call('HSET', KEYS[3], ARGV[5], now)
  redis.call('EXPIRE', KEYS[3], 90000)
end
if admitted == 1 then
  redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[5])
  redis.call('EXPIRE', KEYS[2], 90000)
end
redis.call('HSET', KEYS[1], 'minute', used_minute, 'day', used_day, 'at', now)
redis.call('EXPIRE', KEYS[1], 90000)
return {admitted, tostring(used_minute), tostring(used_day), running}
"""

_FINISH: Final = """
if redis.call('ZREM', KEYS[2], ARGV[2]) == 0 then return end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local charged = tonumber(redis.call('HGET', KEYS[3], ARGV[2])) or now
redis.call('HDEL', KEYS[3], ARGV[2])
local function give_back(field, limit, period)
  local used = tonumber(redis.call('HGET', KEYS[1], field))
  if not used or limit < 0 then return end
  local left = math.max(0, ARGV[1] - math.max(0, now - charged) * limit / period)
  redis.call('HSET', KEYS[1], field, math.max(0, used - left))
end
give_back('minute', tonumber(ARGV[3]), 60)
give_back('day', tonumber(ARGV[4]), 86400)
"""


class RedisQuotaStore:
    """Counts in Redis, by its clock: for several routers. Nothing is let in while it is away."""

    def __init__(self, url: str, *, namespace: str = _NAMESPACE) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=_TIMEOUT_S,
            protocol=2,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
        )
        self._redis: Any = Redis.from_pool(pool)
        self._namespace = namespace
        self._charge = self._redis.register_script(_CHARGE)
        self._finish = self._redis.register_script(_FINISH)

    async def charge(
        self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str, lease_s: float
    ) -> QuotaDecision:
        """See `QuotaStore.charge`."""
        most = limits.max_concurrent_requests
        arguments = [units, *_windows_of(limits), -1 if most is None else most, call_id, lease_s]
        try:
            admitted, minute, day, running = await self._run(self._charge, key_id, arguments)
        except DependencyError as exc:
            logger.error("quotas cannot be counted: %s", type(exc.__cause__).__name__)
            raise
        use = QuotaUse(float(minute), float(day), int(running))
        return QuotaDecision(use, None) if admitted else _explain(use, limits, units)

    async def finish(self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str) -> None:
        """See `QuotaStore.finish`."""
        await self._run(self._finish, key_id, [units, call_id, *_windows_of(limits)])

    async def close(self) -> None:
        """See `QuotaStore.close`."""
        await self._redis.aclose()

    async def _run(self, script: Any, key_id: str, arguments: list[Any]) -> Any:
        # All keys of a caller lie in one slot of a Redis cluster.
        prefix = f"{self._namespace}:{{{key_id}}}"
        keys = [f"{prefix}:use", f"{prefix}:running", f"{prefix}:charged"]
        try:
            return await script(keys, arguments)
        except RedisError as exc:
            # It may live on as the replica of another, and refuse whatever comes by what is open.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            raise DependencyError("quotas could not be counted", None, RETRY_AFTER_S) from exc


def _windows_of(limits: QuotaLimits) -> list[float]:
    """Return what the scripts take for both windows; -1 is without bound."""
    bounds = (limits.units_per_minute, limits.units_per_day)
    return [-1 if bound is None else bound for bound in bounds]


def _explain(use: QuotaUse, limits: QuotaLimits, units: float) -> QuotaDecision:
    waits = {name: window.wait_s(units) for name, window in windows(use, limits).items()}
    reason: Reason = max(waits, key=waits.__getitem__, default="concurrency")
    wait_s = waits.get(reason, 0.0)
    if wait_s > 0:
        return QuotaDecision(use, reason, wait_s)
    return QuotaDecision(use, "concurrency", CONCURRENCY_RETRY_S)
