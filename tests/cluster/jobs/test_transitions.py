"""Whatever happens in whatever order, a job ends once."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.errors import JobFinishedError, LeaseLostError
from cluster.jobs import transitions
from cluster.jobs.job import (
    DEADLINE_INDEX,
    Delivery,
    Job,
    JobFailure,
    JobKind,
    JobStatus,
    Lane,
    lease_index,
    queue_index,
    waiting_index,
)
from cluster.jobs.transitions import OWED_RETENTION_S, JobPolicy

POLICY = JobPolicy(lease_s=10.0, max_attempts=3, retention_s=100.0)
RUNNERS = st.sampled_from(["a", "b", "c"])
FAILURES = st.sampled_from([None, JobFailure("m", "t", "c", "p")])


def queued_job() -> Job:
    return Job(
        id="job-1",
        owner="anonymous",
        request_id="r",
        kind=JobKind.IMAGE,
        lane=Lane.BATCH,
        num_items=1,
        created_at=0.0,
        deadline_at=60.0,
        estimate_s=1.0,
        webhook_url="https://example.com/x",
    )


class JobLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.job = queued_job()
        self.final: Job | None = None
        self.leases = dict.fromkeys("abc", "none")

    @rule(seconds=st.floats(0.0, 15.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: transitions.is_claimable(self.job, self.now))
    @rule(runner=RUNNERS)
    def claim(self, runner: str) -> None:
        self.leases[runner] = f"{runner}-{self.now}-{self.job.attempts}"
        self.job = transitions.claim(self.job, self.leases[runner], self.now, POLICY)

    @rule(runner=RUNNERS, failure=FAILURES)
    def finish(self, runner: str, failure: JobFailure | None) -> None:
        self._try(
            runner, lambda lease: transitions.finish(self.job, lease, failure, self.now, POLICY)
        )

    @rule(runner=RUNNERS, has_progressed=st.booleans())
    def renew(self, runner: str, has_progressed: bool) -> None:
        self._try(
            runner,
            lambda lease: transitions.renew(
                self.job, lease, self.now, POLICY, has_progressed=has_progressed
            ),
        )

    @rule(runner=RUNNERS)
    def release(self, runner: str) -> None:
        self._try(runner, lambda lease: transitions.release(self.job, lease))

    @rule(runner=RUNNERS, wait_s=st.floats(0.0, 15.0), is_blameless=st.booleans())
    def put_off(self, runner: str, wait_s: float, is_blameless: bool) -> None:
        self._try(
            runner,
            lambda lease: transitions.put_off(
                self.job, lease, self.now + wait_s, is_blameless=is_blameless
            ),
        )

    @precondition(lambda self: transitions.is_overdue(self.job, self.now))
    @rule()
    def sweep(self) -> None:
        self.job = transitions.fail_overdue(self.job, self.now, POLICY)
        assert self.job.failure == transitions.DEADLINE

    @rule()
    def cancel(self) -> None:
        try:
            self.job = transitions.cancel(self.job, self.now, POLICY)
        except JobFinishedError:
            assert self.job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED)

    def _try(self, runner: str, transition: Callable[[str], Job]) -> None:
        try:
            self.job = transition(self.leases[runner])
        except LeaseLostError:
            assert self.job.lease != self.leases[runner]

    @invariant()
    def a_final_job_never_changes(self) -> None:
        self.final = self.final or (self.job if self.job.status.is_final else None)
        assert self.final is None or self.job == self.final

    @invariant()
    def a_job_has_a_lease_exactly_while_it_runs(self) -> None:
        is_running = self.job.status is JobStatus.RUNNING
        assert bool(self.job.lease) == is_running
        assert (self.job.lease_expires_at is not None) == is_running
        assert (self.job.begun_at is not None) == is_running

    @invariant()
    def a_job_that_lives_is_in_one_list_to_be_claimed_from(self) -> None:
        lists = {queue_index(Lane.BATCH), waiting_index(Lane.BATCH), lease_index(Lane.BATCH)}
        num_lists = len(lists & self.job.to_indexes().keys())
        assert num_lists == int(not self.job.status.is_final)
        assert (DEADLINE_INDEX in self.job.to_indexes()) == bool(num_lists)

    @invariant()
    def the_webhook_hears_of_one_end(self) -> None:
        events = [delivery.event for delivery in self.job.deliveries]
        ends = [event for event in events if event != "job.running"]
        assert len(ends) == int(self.job.status.is_final)
        assert events.count("job.running") <= 1

    @invariant()
    def a_job_survives_the_store(self) -> None:
        assert Job.from_json(self.job.to_json()) == self.job


TestJobLife = JobLife.TestCase


def test_attempts_are_bounded() -> None:
    job, now = queued_job(), 0.0
    for number in range(POLICY.max_attempts):
        job = transitions.claim(job, str(number), now, POLICY)
        now += POLICY.lease_s

    assert transitions.claim(job, "last", now, POLICY).failure == transitions.EXHAUSTED


@given(st.floats(60.0, 1e6))
def test_a_job_past_its_deadline_does_not_begin(now: float) -> None:
    assert transitions.claim(queued_job(), "a", now, POLICY).failure == transitions.DEADLINE


def test_a_running_job_is_left_to_its_runner_at_its_deadline() -> None:
    job = transitions.claim(queued_job(), "a", 55.0, POLICY)

    assert [transitions.is_overdue(job, now) for now in (61.0, 64.9, 65.0)] == [False, False, True]


def test_a_job_that_waits_for_room_is_overdue_at_its_deadline() -> None:
    job = transitions.claim(queued_job(), "a", 50.0, POLICY)
    job = transitions.put_off(job, "a", 80.0, is_blameless=True)

    assert [transitions.is_overdue(job, now) for now in (59.9, 60.0)] == [False, True]


def test_a_delivery_that_was_settled_already_is_left_alone() -> None:
    job = transitions.cancel(queued_job(), 1.0, POLICY)

    assert transitions.settle_delivery(job, "other", 2.0, POLICY, retry_at=None) == job
    assert job.deliveries == (Delivery("msg-job-1-cancelled", "job.cancelled", 1.0),)


def test_a_job_is_kept_while_it_owes_messages_and_for_its_retention_from_the_last() -> None:
    job = transitions.cancel(queued_job(), 1.0, POLICY)
    assert job.expires_at == 1.0 + OWED_RETENTION_S

    job = transitions.take_delivery(job, 2.0, POLICY, within_s=15.0)
    assert job.expires_at == 17.0 + OWED_RETENTION_S
    job = transitions.settle_delivery(job, job.deliveries[0].id, 3.0, POLICY, retry_at=3600.0)
    assert job.expires_at == 3600.0 + OWED_RETENTION_S
    job = transitions.put_back_delivery(job, 3600.0, POLICY, until=7200.0)
    assert job.expires_at == 7200.0 + OWED_RETENTION_S
    job = transitions.settle_delivery(job, job.deliveries[0].id, 7200.0, POLICY, retry_at=None)
    assert job.expires_at == 7200.0 + POLICY.retention_s


def test_a_job_that_runs_does_not_expire_when_its_messages_are_sent() -> None:
    job = transitions.claim(queued_job(), "a", 0.0, POLICY)
    job = transitions.take_delivery(job, 1.0, POLICY, within_s=15.0)
    job = transitions.settle_delivery(job, job.deliveries[0].id, 2.0, POLICY, retry_at=None)

    assert job.expires_at is None


def test_a_success_is_not_cancelled() -> None:
    job = transitions.claim(queued_job(), "a", 0.0, POLICY)
    job = transitions.finish(job, "a", None, 1.0, POLICY)

    with pytest.raises(JobFinishedError, match="must be queued or running, got succeeded"):
        transitions.cancel(job, 2.0, POLICY)
