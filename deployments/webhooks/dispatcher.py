"""Delivers what jobs owe their webhooks: in order by job, again until it arrives or is given up."""

import asyncio
import json
import random
import time
from datetime import UTC, datetime
from typing import Final

from cluster.errors import ClusterError
from cluster.jobs.job import Delivery, Job
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

_CONCURRENCY: Final = 8
_BACKOFF: Final = 3.0
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
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        self._tasks = [asyncio.create_task(self._dispatch()) for _ in range(_CONCURRENCY)]

    async def stop(self) -> None:
        """Stop; what is being sent is tried again by whoever goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.close()

    async def _dispatch(self) -> None:
        while True:
            try:
                job = await self._threads.call(
                    self._store.take_delivery, within_s=self._config.timeout_s + _GRACE_S
                )
                if job is not None:
                    await self._deliver(job)
                    continue
            except ClusterError as exc:
                logger.warning("webhooks cannot be sent: %s", exc)
            await asyncio.sleep(self._poll_s * _CONCURRENCY)  # together they look every `poll_s`

    async def _deliver(self, job: Job) -> None:
        delivery = job.deliveries[0]
        retry_in_s: float | None = None
        try:
            await self._send(job, delivery)
        except (DeliveryError, InvalidFieldError) as exc:
            is_final = isinstance(exc, InvalidFieldError) or exc.is_final
            if not is_final:
                retry_in_s = retry_delay_s(self._config, delivery.attempts)
            logger.warning(
                "webhook %s, try %d: %s%s",
                delivery.id,
                delivery.attempts,
                exc.args[0],
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
    """Return a message's body: the job without its result, which its owner reads."""
    happened = datetime.fromtimestamp(delivery.happened_at, UTC)
    data = to_body(job).model_dump(mode="json", exclude_none=True)
    message = {
        "type": delivery.event,
        "timestamp": happened.isoformat().replace("+00:00", "Z"),
        "data": {**data, "status": delivery.event.removeprefix("job.")},
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def retry_delay_s(config: WebhooksConfig, num_attempts: int) -> float | None:
    """Return the seconds until a message is tried again; None to give it up."""
    if num_attempts >= config.max_attempts:
        return None
    delay_s = config.first_delay_s * _BACKOFF ** (num_attempts - 1)
    return min(delay_s, config.max_delay_s) * random.uniform(1.0, 1.0 + _JITTER)
