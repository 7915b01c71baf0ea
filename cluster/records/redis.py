"""Records in Redis, for the machines of a cluster."""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cluster.errors import (
    PayloadsFullError,
    RecordStoreConfigurationError,
    RecordStoreUnavailableError,
)
from cluster.records import redis_scripts as scripts
from cluster.records.record_store import Event, Record
from cluster.records.redis_refusals import explain
from cluster.redis_url import place_of

_logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 3.0
_READ_TIMEOUT_S: Final = 5.0


class RedisRecordStore:
    """See `RecordStore`. Connects at the first call; threads may share it."""

    def __init__(self, url: str, *, namespace: str = "zimage") -> None:
        # The hash tag keeps all keys of the service in one slot of a Redis cluster.
        self._prefix = f"{{{namespace}}}:"
        self._place = place_of(url)
        # A change that is sent twice can fail for having succeeded: nothing is retried here.
        self._redis: Any = redis.Redis.from_url(
            url,
            # Servers before 6, and some proxies, know no other.
            protocol=2,
            decode_responses=True,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_READ_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    def now(self) -> float:
        """See `RecordStore.now`: Redis' own clock, so that machines may disagree on theirs."""
        with self._errors():
            seconds, microseconds = self._redis.time()
        return float(seconds) + float(microseconds) / 1e6

    def insert(
        self, record: Record, *, payload: str = "", max_payload_bytes: int | None = None
    ) -> bool:
        """See `RecordStore.insert`."""
        most = "" if max_payload_bytes is None else max_payload_bytes
        done = int(self._change(scripts.INSERT, record, payload, most))
        if done < 0:
            raise PayloadsFullError(f"payloads must take at most {most} bytes in all")
        return bool(done)

    def read(self, id: str) -> Record | None:
        """See `RecordStore.read`."""
        with self._errors():
            body, version, guard = self._redis.hmget(self._keys(id)[0], "body", "version", "guard")
        return None if body is None else Record(id, body, int(version), guard)

    def read_payload(self, id: str) -> str | None:
        """See `RecordStore.read_payload`."""
        with self._errors():
            payload: str | None = self._redis.hget(self._keys(id)[0], "payload")
        return payload

    def payload_bytes(self) -> int:
        """See `RecordStore.payload_bytes`."""
        with self._errors():
            return int(self._redis.get(f"{self._prefix}payload-bytes") or 0)

    def replace(self, record: Record, *, drops_payload: bool = False) -> bool:
        """See `RecordStore.replace`."""
        return bool(self._change(scripts.REPLACE, record, record.version, int(drops_payload)))

    def delete(self, record: Record) -> bool:
        """See `RecordStore.delete`."""
        return bool(self._eval(scripts.DELETE, record.id, self._prefix, record.id, record.version))

    def put_outcome(self, id: str, name: str, body: str, *, guard: str) -> bool:
        """See `RecordStore.put_outcome`."""
        return bool(self._eval(scripts.PUT_OUTCOME, id, name, body, guard))

    def read_outcomes(self, id: str) -> dict[str, str]:
        """See `RecordStore.read_outcomes`."""
        with self._errors():
            outcomes: dict[str, str] = self._redis.hgetall(self._keys(id)[1])
        return outcomes

    def append_event(self, id: str, body: str, *, keep: int, guard: str) -> bool:
        """See `RecordStore.append_event`."""
        return bool(self._eval(scripts.APPEND_EVENT, id, body, keep, guard))

    def read_events(self, id: str, *, after: int) -> list[Event]:
        """See `RecordStore.read_events`."""
        first, bodies = self._eval(scripts.READ_EVENTS, id, after)
        return [Event(number, body) for number, body in enumerate(bodies, start=int(first))]

    def first(self, index: str, *, until: float, limit: int) -> list[str]:
        """See `RecordStore.first`."""
        with self._errors():
            # ZRANGE takes BYSCORE only from Redis 6.2 on.
            ids: list[str] = self._redis.zrangebyscore(
                self._index(index), "-inf", until, start=0, num=limit
            )
        return ids

    def count(self, index: str, *, below: float) -> int:
        """See `RecordStore.count`."""
        with self._errors():
            return int(self._redis.zcount(self._index(index), "-inf", f"({below!r}"))

    def page(self, index: str, *, after: str | None, limit: int) -> list[str]:
        """See `RecordStore.page`."""
        with self._errors():
            ids: list[str] = self._redis.eval(
                scripts.PAGE, 1, self._index(index), after or "", limit
            )
        return ids

    def check(self) -> None:
        """See `RecordStore.check`: Redis must keep what it was given, and take what comes."""
        try:
            self._check_settings()
            self._check_access()
        except RecordStoreUnavailableError as exc:
            refusal = exc.__cause__
            if not isinstance(refusal, redis.ResponseError):
                raise
            raise RecordStoreConfigurationError(
                f"the job store's Redis must {explain(refusal, self._prefix)} at {self._place}"
            ) from refusal

    def close(self) -> None:
        """See `RecordStore.close`."""
        self._redis.close()

    def _check_settings(self) -> None:
        with self._errors():
            persistence = self._redis.info("persistence")
            memory = self._redis.info("memory")
        if persistence.get("aof_enabled") != 1:
            raise RecordStoreConfigurationError(
                f"the job store's Redis must have appendonly yes, got no at {self._place}"
            )
        policy = memory.get("maxmemory_policy")
        if policy != "noeviction":
            raise RecordStoreConfigurationError(
                f"the job store's Redis must have maxmemory-policy noeviction, got {policy} "
                f"at {self._place}"
            )
        self._check_sync()

    def _check_sync(self) -> None:
        try:
            with self._errors():
                sync = self._redis.config_get("appendfsync").get("appendfsync", "not told")
        except RecordStoreUnavailableError as exc:
            # A user need not have the right, and a provider's Redis may not know the command.
            if not isinstance(exc.__cause__, redis.ResponseError):
                raise
            sync = "not told"
        if sync == "no":
            raise RecordStoreConfigurationError(
                "the job store's Redis must have appendfsync always or everysec, got no at "
                f"{self._place}"
            )
        if sync != "always":
            _logger.warning(
                "the job store's Redis may lose what it took in the last second if its machine "
                "fails: appendfsync always keeps it, got %s at %s",
                sync,
                self._place,
            )

    def _check_access(self) -> None:
        # Under a name that nobody else has, so that no other router's check or job is met.
        name = f"check-{secrets.token_hex(8)}"
        record = Record(name, "", version=1, guard=name, indexes={name: self.now()})
        try:
            self.insert(record)
            self.put_outcome(name, name, "", guard=name)
            self.append_event(name, "", keep=1, guard=name)
            self.first(name, until=float("inf"), limit=1)
            self.read(name)
        finally:
            self.delete(record)

    def _change(self, script: str, record: Record, *last: object) -> Any:
        indexes = " ".join(f"{name} {score!r}" for name, score in record.indexes.items())
        arguments = (self._prefix, record.id, record.body, record.guard, indexes, *last)
        return self._eval(script, record.id, *arguments)

    def _eval(self, script: str, id: str, *arguments: object) -> Any:
        with self._errors():
            return self._redis.eval(script, 3, *self._keys(id), *arguments)

    def _keys(self, id: str) -> tuple[str, str, str]:
        return (
            f"{self._prefix}record:{id}",
            f"{self._prefix}outcomes:{id}",
            f"{self._prefix}events:{id}",
        )

    def _index(self, name: str) -> str:
        return f"{self._prefix}index:{name}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError as exc:
            raise RecordStoreConfigurationError(
                f"the job store {self._place} refused the password"
            ) from exc
        except redis.RedisError as exc:
            # What was open to a server that died would fail later calls, one each.
            self._redis.connection_pool.disconnect(inuse_connections=False)
            raise RecordStoreUnavailableError(
                f"the job store {self._place} failed: {type(exc).__name__}"
            ) from exc
