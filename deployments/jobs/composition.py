"""Builds the jobs of one router out of their parts, and starts and stops them together."""

from dataclasses import dataclass

from cluster.jobs.idempotency import IdempotencyStore
from cluster.jobs.job import Lane
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from cluster.records import RecordStore
from cluster.storage import ImageStore
from deployments.admission import Admission
from deployments.config import AppConfig
from deployments.jobs.api import JobsApi
from deployments.jobs.descriptions import JobDescriber
from deployments.jobs.estimates import MeasuredEstimate
from deployments.jobs.event_readers import EventReaders
from deployments.jobs.execution import JobExecution
from deployments.jobs.idempotency import Idempotency
from deployments.jobs.outcomes import Draw, OutcomeReader
from deployments.jobs.runner import JobRunner
from deployments.jobs.service import JobService, QueueLimits
from deployments.jobs_config import JobsConfig
from deployments.store_threads import StoreThreads
from deployments.validation import RequestRules
from deployments.webhooks.dispatcher import WebhookDispatcher, build_rules
from deployments.webhooks.resolver import HostResolver
from deployments.webhooks.sender import WebhookSender


@dataclass(frozen=True)
class Jobs:
    """What runs in a router beside its HTTP calls."""

    api: JobsApi
    runner: JobRunner
    webhooks: WebhookDispatcher
    resolver: HostResolver
    records: RecordStore
    threads: StoreThreads
    """For what callers wait for."""
    work_threads: StoreThreads
    """For what runs behind them."""

    async def start(self) -> None:
        """Check the store and begin to run jobs.

        Raises:
            RecordStoreError: If the store cannot be reached, or may lose what it is given.
        """
        await self.threads.call(self.records.check)
        self.runner.start()
        self.webhooks.start()

    async def stop(self) -> None:
        """Put back what runs, for another router to go on with."""
        await self.runner.stop()
        await self.api.idempotency.stop()
        await self.webhooks.stop()
        self.resolver.stop()
        await self.threads.call(self.records.close)
        self.threads.stop()
        self.work_threads.stop()


def build_jobs(
    config: AppConfig,
    rules: RequestRules,
    admission: Admission,
    images: ImageStore,
    image_threads: StoreThreads,
    records: RecordStore,
    draw: Draw,
) -> Jobs:
    """Build the jobs of one router; nothing runs yet."""
    jobs = config.jobs
    threads, work_threads = StoreThreads(), StoreThreads()
    store = JobStore(records, JobPolicy(jobs.lease_s, jobs.max_attempts, jobs.retention_s))
    estimate = MeasuredEstimate()
    outcomes = OutcomeReader(images, image_threads, url_lifetime_s=config.store.url_lifetime_s)
    num_slots = {Lane.INTERACTIVE: jobs.max_running_jobs, Lane.BATCH: jobs.max_running_batches}
    runner = JobRunner(
        JobExecution(draw, store, work_threads, estimate, jobs.max_batch_concurrency),
        store,
        work_threads,
        num_slots=num_slots,
        poll_s=jobs.poll_s,
    )
    api = JobsApi(
        config=jobs,
        rules=rules,
        admission=admission,
        targets=build_rules(config.webhooks),
        service=JobService(store, threads, runner, estimate, _limit_queue(jobs)),
        describer=JobDescriber(store, threads, outcomes, num_slots=num_slots),
        idempotency=_build_idempotency(jobs, records, threads),
        outcomes=outcomes,
        event_readers=EventReaders(jobs.max_event_readers),
    )
    resolver = HostResolver()
    sender = WebhookSender(api.targets, resolver, timeout_s=config.webhooks.timeout_s)
    webhooks = WebhookDispatcher(config.webhooks, sender, store, work_threads, poll_s=jobs.poll_s)
    return Jobs(api, runner, webhooks, resolver, records, threads, work_threads)


def _limit_queue(config: JobsConfig) -> QueueLimits:
    most, share = config.max_queued, config.max_queued_share
    return QueueLimits(
        max_queued=most,
        max_queued_per_key=max(1, int(share * most)),
        max_queued_bytes=config.max_queued_bytes,
    )


def _build_idempotency(
    config: JobsConfig, records: RecordStore, threads: StoreThreads
) -> Idempotency:
    return Idempotency(
        IdempotencyStore(
            records, lease_s=config.lease_s, retention_s=config.idempotency_retention_s
        ),
        threads,
        renew_s=config.lease_s / 3,
        poll_s=config.poll_s / 2,
    )
