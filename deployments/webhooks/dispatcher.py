"""Delivers what jobs owe their webhooks: in order by job, again until it arrives or is given up."""

import asyncio
import contextlib
import json
import math
import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from cluster.errors import ClusterError
from cluster.jobs.job import Delivery, Job, JobStatus
from cluster.jobs.job_store import JobStore
from deployments.errors import InvalidFieldError
from deployments.jobs.descriptions import to_body
from deployments.jobs.persistence import persist
from deployments.jobs_config import WebhooksConfig
from deployments.log import logger
from deployments.store_threads import StoreThreads
from deployments.webhooks.sender import DeliveryError, WebhookSender
from deployments.webhooks.signing import sign_message
from deployments.webhooks.targets import TargetRules, parse_target
from deployments.webhooks.turns import MAX_SENDS, MAX_WAIT_S, Turns

_PAGE: Final = 64
"""Due messages that are looked at before the next look."""
_BACKOFF: Final = 3.0
_MAX_EXPONENT: Final = 64
_JITTER: Final = 0.1
_GRACE_S: Final = 5.0
"""Added to a try's time-out before another router may try the same message."""


def build_rules(config: WebhooksConfig) -> TargetRules:
    """Take the rules out of the operator's configuration."""
    return TargetRules(
        frozenset(config.allowed_hosts), config.allow_http, config.allow_private_addresses
    )


class WebhookDispatcher:
    """Sends due messages; their state is in the job store, so any router may go on with them."""

    def __init__(
        self,
        config: WebhooksConfig,
        sender: WebhookSender,
        store: JobStore,
        threads: StoreThreads,
        *,
        poll_s: float,
    ) -> None:
        self._config = config
        self._rules = build_rules(config)
        self._sender = sender
        self._store = store
        self._threads = threads
        self._poll_s = poll_s
        self._schedule_s = schedule_s(config)
        self._turns = Turns(timeout_s=config.timeout_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sends: set[asyncio.Task[None]] = set()
        self._has_ended = asyncio.Event()

    def start(self) -> None:
        """Begin to send; where no host is allowed, nobody looks for what is owed."""
        if self._config.allowed_hosts:
            self._tasks.add(asyncio.create_task(self._dispatch()))

    async def stop(self) -> None:
        """Stop; what is being sent is tried again by whoever goes on."""
        tasks = [*self._tasks, *self._sends]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.close()

    async def _dispatch(self) -> None:
        while True:
            self._has_ended.clear()
            is_all = True
            try:
                is_all = await self._look()
            except ClusterError as exc:
                logger.warning("webhooks cannot be sent: %s", exc)
            except Exception:  # noqa: BLE001  # nobody else would look again
                logger.exception("webhooks cannot be sent")
            if is_all:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await self._has_ended.wait()

    async def _look(self) -> bool:
        """Send what is due or put it back; say whether to wait before the next look."""
        due = await self._threads.call(self._store.due_deliveries, limit=_PAGE)
        for job in due:
            if len(self._sends) >= MAX_SENDS:
                return True
            await self._send_or_put_back(job)
        return len(due) < _PAGE

    async def _send_or_put_back(self, due: Job) -> None:
        receiver = self._receiver_of(due)
        now_s = time.monotonic()
        wait_s = self._turns.wait_s(receiver, now_s)
        if wait_s:
            # A receiver that was silent for as long as a message may be tried will not take it.
            is_lost = self._turns.silent_s(receiver, now_s) > self._schedule_s
            max_age_s = self._schedule_s if is_lost else math.inf
            await self._threads.call(
                self._store.put_back_delivery, due, wait_s=wait_s, max_age_s=max_age_s
            )
            return
        job = await self._threads.call(
            self._store.take_delivery,
            due,
            within_s=self._config.timeout_s + _GRACE_S,
            max_attempts=self._config.max_attempts,
        )
        if job is not None:
            self._turns.begin(receiver)
            send = asyncio.create_task(self._deliver(job, receiver))
            self._sends.add(send)
            send.add_done_callback(self._end)

    def _receiver_of(self, job: Job) -> str:
        """Name who gets the messages; nobody if they may not be sent, which takes no time."""
        try:
            target = parse_target(job.webhook_url or "", self._rules)
        except InvalidFieldError:
            return ""
        return f"{target.host}:{target.port}"

    def _end(self, send: asyncio.Task[None]) -> None:
        self._sends.discard(send)
        self._has_ended.set()

    async def _deliver(self, job: Job, receiver: str) -> None:
        try:
            failure = await self._try(job, receiver)
            await self._settle(job, failure)
        except ClusterError as exc:
            logger.warning("a webhook's state cannot be kept: %s", exc)
        except Exception:  # noqa: BLE001  # it is tried again when its time is over
            logger.exception("webhook %s failed", job.deliveries[0].id)

    async def _try(self, job: Job, receiver: str) -> DeliveryError | InvalidFieldError | None:
        begun_s = time.monotonic()
        is_silence = False
        try:
            await self._send(job, job.deliveries[0])
        except DeliveryError as exc:
            is_silence = exc.is_silence
            return exc
        except InvalidFieldError as exc:
            return exc
        finally:
            now_s = time.monotonic()
            self._turns.end(receiver, now_s, took_s=now_s - begun_s, is_silence=is_silence)
        return None

    async def _settle(self, job: Job, failure: DeliveryError | InvalidFieldError | None) -> None:
        delivery = job.deliveries[0]
        retry_in_s: float | None = None
        if isinstance(failure, DeliveryError) and not failure.is_final:
            retry_in_s = retry_delay_s(self._config, delivery.attempts)
        if failure is not None:
            logger.warning(
                "webhook %s, try %d: %s%s",
                delivery.id,
                delivery.attempts,
                failure.args[0],
                "; given up" if retry_in_s is None else "",
            )

        async def settle() -> Job:
            return await self._threads.call(self._store.settle_delivery, job, retry_in_s=retry_in_s)

        await persist(settle)

    async def _send(self, job: Job, delivery: Delivery) -> None:
        target = parse_target(job.webhook_url or "", self._rules)
        body = to_message(job, delivery)
        headers = sign_message(self._config.signing_key(), delivery.id, int(time.time()), body)
        await self._sender.send(target, body, headers)


def to_message(job: Job, delivery: Delivery) -> bytes:
    """Return a message's body: the job as it was then, without its result; its owner reads that."""
    happened = datetime.fromtimestamp(delivery.happened_at, UTC)
    then = _as_it_was(job, JobStatus(delivery.event.removeprefix("job.")))
    message = {
        "type": delivery.event,
        "timestamp": happened.isoformat().replace("+00:00", "Z"),
        "data": to_body(then).model_dump(mode="json", exclude_none=True),
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _as_it_was(job: Job, status: JobStatus) -> Job:
    """Return a job at a status that it has had; a message may leave after the next change."""
    if status.is_final:
        return job
    return replace(job, status=status, finished_at=None, expires_at=None, failure=None)


def retry_delay_s(config: WebhooksConfig, num_attempts: int) -> float | None:
    """Return the seconds until a message is tried again; None to give it up."""
    if num_attempts >= config.max_attempts:
        return None
    return _delay_s(config, num_attempts) * random.uniform(1.0, 1.0 + _JITTER)


def schedule_s(config: WebhooksConfig) -> float:
    """Return the most seconds from a message's first try to the end of its last."""
    delays = (_delay_s(config, number) for number in range(1, config.max_attempts))
    waits_s = (1.0 + _JITTER) * sum(delays) + MAX_WAIT_S
    return waits_s + config.max_attempts * config.timeout_s


def _delay_s(config: WebhooksConfig, num_attempts: int) -> float:
    delay_s = config.first_delay_s * _BACKOFF ** min(num_attempts - 1, _MAX_EXPONENT)
    return min(delay_s, config.max_delay_s)
