"""The queue over every record store: leases, retries, cancellation, lists, deliveries."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from record_stores import KINDS, OpenStore

from cluster.errors import JobFinishedError, JobFormatError, JobNotFoundError, LeaseLostError
from cluster.jobs.job import (
    DEADLINE_INDEX,
    EXPIRY_INDEX,
    FORMAT,
    WEBHOOK_INDEX,
    Job,
    JobFailure,
    JobKind,
    JobStatus,
    Lane,
    lease_index,
    owner_index,
    queue_index,
)
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import DEADLINE, EXHAUSTED, JobPolicy
from cluster.records import Record, SqliteRecordStore

LASTING = JobPolicy(lease_s=60.0, max_attempts=3, retention_s=60.0)
SILENT = replace(LASTING, lease_s=0.0)
"""Under which every runner has fallen silent at once."""


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    with KINDS[request.param](tmp_path) as open_store:
        yield open_store


@pytest.fixture
def store(open_store: OpenStore) -> JobStore:
    return JobStore(open_store(), LASTING)


def silent(store: JobStore) -> JobStore:
    return JobStore(store.records, SILENT)


def accept(store: JobStore, id: str = "job-1", **changes: object) -> Job:
    now = store.records.now()
    job = Job(
        id=id,
        owner="anonymous",
        request_id="r",
        kind=JobKind.IMAGE,
        lane=Lane.INTERACTIVE,
        num_items=1,
        created_at=now,
        deadline_at=now + 3600,
        estimate_s=1.0,
    )
    return store.accept(replace(job, **changes), "payload")  # type: ignore[arg-type]


def insert_unreadable(store: JobStore, index: str, scores: Iterable[float]) -> None:
    """Put jobs of another version into an index."""
    for score in scores:
        store.records.insert(Record(f"unreadable-{score}", "{}", indexes={index: score}))


def claim(store: JobStore, lane: Lane = Lane.INTERACTIVE) -> Job:
    job = store.claim(lane)
    assert job is not None
    return job


def take_delivery(store: JobStore, *, within_s: float = 60.0, max_attempts: int = 10) -> Job | None:
    taken = (
        store.take_delivery(due, within_s=within_s, max_attempts=max_attempts)
        for due in store.due_deliveries(limit=8)
    )
    return next((job for job in taken if job is not None), None)


def test_an_accepted_job_is_read_back_whole(store: JobStore) -> None:
    job = accept(store, webhook_url="https://example.com/x")

    assert store.read("job-1") == job
    assert store.read_payload(job) == "payload"


def test_a_job_is_accepted_once_under_an_id(store: JobStore) -> None:
    first = accept(store)
    second = accept(store, estimate_s=9.0)

    assert second == first


def test_the_job_that_waits_longest_is_claimed_first(store: JobStore) -> None:
    now = store.records.now()
    accept(store, "job-2", created_at=now + 1)
    accept(store, "job-1", created_at=now)

    assert store.count_queued(Lane.INTERACTIVE, before=now + 1) == 1
    assert [claim(store).id, claim(store).id] == ["job-1", "job-2"]
    assert store.claim(Lane.INTERACTIVE) is None


def accept_in_turn(store: JobStore, id: str, owner: str, **changes: object) -> Job:
    turn_at = store.next_turn(owner, Lane.INTERACTIVE, store.records.now())
    return accept(store, id, owner=owner, turn_at=turn_at, **changes)


def test_owners_take_turns(store: JobStore) -> None:
    for number in range(3):
        accept_in_turn(store, f"alice-{number}", "alice", estimate_s=60.0)
    for number in range(2):
        accept_in_turn(store, f"bob-{number}", "bob", estimate_s=60.0)

    assert [claim(store).id for _ in range(5)] == [
        "alice-0",
        "bob-0",
        "alice-1",
        "bob-1",
        "alice-2",
    ]


def test_jobs_of_one_owner_keep_their_order_while_some_are_run(store: JobStore) -> None:
    for number in range(4):
        accept_in_turn(store, f"job-{number}", "alice", estimate_s=60.0)
    claim(store)
    claim(store)
    accept_in_turn(store, "job-4", "alice", estimate_s=0.0)

    assert [claim(store).id for _ in range(3)] == ["job-2", "job-3", "job-4"]


def test_an_owners_queue_counts_what_waits_for_room_and_not_what_runs(store: JobStore) -> None:
    for number in range(3):
        accept(store, f"job-{number}")
    accept(store, "other", owner="bob")
    put_off(store, claim(store), 60.0)
    claim(store)

    assert store.count_queued_of("anonymous", Lane.INTERACTIVE) == 2
    assert store.count_queued_of("anonymous", Lane.BATCH) == 0


def test_a_lane_gives_only_its_own_jobs(store: JobStore) -> None:
    accept(store, lane=Lane.BATCH)

    assert store.claim(Lane.INTERACTIVE) is None
    assert claim(store, Lane.BATCH).status is JobStatus.RUNNING


def test_of_many_runners_at_once_each_gets_another_job(open_store: OpenStore) -> None:
    stores = [JobStore(open_store(), LASTING) for _ in range(8)]
    for number in range(5):
        accept(stores[0], f"job-{number}")

    with ThreadPoolExecutor(8) as threads:
        claimed = [
            job.id for job in threads.map(lambda s: s.claim(Lane.INTERACTIVE), stores) if job
        ]
    while (late := stores[0].claim(Lane.INTERACTIVE)) is not None:
        claimed.append(late.id)

    assert sorted(claimed) == [f"job-{number}" for number in range(5)]


def test_a_finished_job_has_its_outcome_and_is_in_no_queue(store: JobStore) -> None:
    accept(store)
    job = claim(store)
    store.put_outcome(job, 0, "drawn")
    finished = store.finish(job, None)

    assert finished.status is JobStatus.SUCCEEDED
    assert store.read("job-1") == finished
    assert store.read_outcomes("job-1") == {0: "drawn"}
    assert store.claim(Lane.INTERACTIVE) is None


def test_the_job_of_a_silent_runner_is_claimed_again(store: JobStore) -> None:
    accept(store)
    first = claim(silent(store))
    second = claim(store)

    assert second.attempts == 2
    assert second.lease != first.lease
    assert not store.has_lease(first)
    assert store.has_lease(second)


def test_a_deposed_runner_changes_nothing(store: JobStore) -> None:
    accept(store)
    first = claim(silent(store))
    second = claim(store)

    with pytest.raises(LeaseLostError):
        store.put_outcome(first, 0, "late")
    with pytest.raises(LeaseLostError):
        store.append_event(first, "late")
    with pytest.raises(LeaseLostError):
        store.renew(first, has_progressed=True)
    with pytest.raises(LeaseLostError):
        store.release(first)
    with pytest.raises(LeaseLostError):
        store.finish(first, None)
    assert store.read("job-1") == second


def test_what_was_done_before_a_runner_died_is_kept(store: JobStore) -> None:
    accept(store)
    store.put_outcome(claim(silent(store)), 0, "first")
    store.put_outcome(claim(store), 0, "second")

    assert store.read_outcomes("job-1") == {0: "first"}


def test_a_poison_job_fails_alone(store: JobStore) -> None:
    now = store.records.now()
    accept(store, "poison", created_at=now)
    for _ in range(LASTING.max_attempts):
        claim(silent(store))
    accept(store, "healthy", created_at=now + 1)

    assert claim(store).id == "healthy"
    poison = store.read("poison")
    assert poison.status is JobStatus.FAILED
    assert poison.failure == EXHAUSTED


def test_progress_proves_that_a_job_is_no_poison(store: JobStore) -> None:
    accept(store)
    for _ in range(2 * LASTING.max_attempts):
        job = claim(silent(store))
        silent(store).renew(job, has_progressed=True)

    assert claim(store).attempts == 2


def test_a_released_job_was_not_begun(store: JobStore) -> None:
    accept(store)
    released = store.release(claim(store))

    assert (released.status, released.attempts) == (JobStatus.QUEUED, 0)
    assert claim(store).attempts == 1


def test_a_job_that_has_ended_keeps_no_payload(store: JobStore) -> None:
    accept(store, "late", deadline_at=store.records.now())
    accept(store, "done")
    accept(store, "cancelled")
    done = claim(store)
    assert store.read_payload(done) == "payload"
    store.finish(done, None)
    store.cancel("cancelled")

    assert store.records.payload_bytes() == 0


def test_a_job_that_nobody_begins_fails_at_its_deadline(store: JobStore) -> None:
    now = store.records.now()
    accept(store, "later")
    accept(store, "due", deadline_at=now, webhook_url="https://example.com/x")

    assert (store.fail_overdue(), store.fail_overdue()) == (1, 0)
    failed = store.read("due")
    assert (failed.status, failed.failure) == (JobStatus.FAILED, DEADLINE)
    assert [each.event for each in failed.deliveries] == ["job.failed"]
    assert store.read("later").status is JobStatus.QUEUED
    assert claim(store).id == "later"


def test_many_jobs_of_another_version_do_not_hide_those_that_are_due(store: JobStore) -> None:
    insert_unreadable(store, DEADLINE_INDEX, range(40))
    accept(store, "due", deadline_at=store.records.now())

    assert store.fail_overdue() == 1


def insert_later_version(store: JobStore, id: str, *, seconds_late: float, lease_s: float) -> None:
    """Insert a job of a later version, whose time is up and which somebody has or had."""
    now = store.records.now()
    accept(store, f"model-of-{id}", deadline_at=now - seconds_late)
    values = json.loads(read_body(store, f"model-of-{id}"))
    later = {**values, "id": id, "format": FORMAT + 1, "adapter": "a", "lease_expires_at": now}
    later["lease_expires_at"] += lease_s
    indexes = {DEADLINE_INDEX: now - seconds_late, queue_index(Lane.INTERACTIVE): now}
    store.records.insert(Record(id, json.dumps(later), indexes=indexes), payload="p")
    store.cancel(f"model-of-{id}")


def read_body(store: JobStore, id: str) -> str:
    record = store.records.read(id)
    assert record is not None
    return record.body


def test_a_job_of_a_later_version_is_passed_over_until_long_after_its_deadline(
    store: JobStore,
) -> None:
    insert_later_version(store, "early", seconds_late=300.0, lease_s=-1.0)
    insert_later_version(store, "runs", seconds_late=3600.0, lease_s=60.0)
    insert_later_version(store, "late", seconds_late=3600.0, lease_s=-1.0)

    assert store.claim(Lane.INTERACTIVE) is None
    assert (store.fail_overdue(), store.fail_unreadable(), store.fail_unreadable()) == (0, 1, 0)
    assert "queued" in read_body(store, "early")
    assert "queued" in read_body(store, "runs")
    late = json.loads(read_body(store, "late"))
    assert (late["status"], late["failure"]["code"]) == ("failed", "deadline_exceeded")
    assert (late["format"], late["adapter"]) == (FORMAT + 1, "a")
    assert store.records.read_payload("late") == ""


def test_what_is_no_job_at_all_does_not_stay_for_ever(store: JobStore) -> None:
    insert_unreadable(store, DEADLINE_INDEX, range(3))
    brief = JobStore(store.records, replace(LASTING, retention_s=0.0))

    assert (brief.fail_unreadable(), brief.sweep()) == (3, 3)


def test_a_job_of_the_format_without_a_number_is_read(store: JobStore) -> None:
    job = accept(store)
    values = json.loads(job.to_json())
    for name in ("format", "turn_at", "begun_at", "not_before", "num_waits"):
        del values[name]

    assert Job.from_json(json.dumps(values)) == job


@pytest.mark.parametrize("body", ["{}", "[]", "x", '{"format": 99}', '{"format": "x"}'])
def test_a_body_of_another_format_is_told_apart(body: str) -> None:
    with pytest.raises(JobFormatError):
        Job.from_json(body)


def put_off(store: JobStore, job: Job, wait_s: float, *, is_blameless: bool = True) -> Job:
    return store.put_off(job, wait_s=wait_s, is_blameless=is_blameless)


def test_a_job_that_waits_for_room_lets_others_go_first(store: JobStore) -> None:
    accept(store, "waits")
    accept(store, "other", created_at=store.records.now() + 1)
    put_off(store, claim(store), 60.0)

    assert claim(store).id == "other"
    assert store.claim(Lane.INTERACTIVE) is None
    assert (store.count_queued(Lane.INTERACTIVE), store.count_waiting(Lane.INTERACTIVE)) == (0, 1)


@pytest.mark.parametrize(("waiting_first", "id"), [(False, "other"), (True, "waits")])
def test_a_job_that_waited_long_enough_is_claimed_by_turns(
    store: JobStore, waiting_first: bool, id: str
) -> None:
    accept(store, "waits")
    put_off(store, claim(store), 0.0)
    accept(store, "other")

    job = store.claim(Lane.INTERACTIVE, waiting_first=waiting_first)
    assert job is not None
    assert job.id == id


def test_waiting_for_room_is_no_attempt_however_often(store: JobStore) -> None:
    accept(store)
    for number in range(2 * LASTING.max_attempts):
        assert put_off(store, claim(store), 0.0).num_waits == number + 1

    assert claim(store).attempts == 1


def test_a_job_that_loses_replicas_before_each_wait_fails(store: JobStore) -> None:
    accept(store)
    for _ in range(LASTING.max_attempts):
        put_off(store, claim(store), 0.0, is_blameless=False)

    assert store.claim(Lane.INTERACTIVE) is None
    assert store.read("job-1").failure == EXHAUSTED


def test_a_job_that_waits_is_cancelled(store: JobStore) -> None:
    accept(store)
    put_off(store, claim(store), 0.0)
    store.cancel("job-1")

    assert store.claim(Lane.INTERACTIVE) is None
    assert store.count_waiting(Lane.INTERACTIVE) == 0


def test_a_job_past_its_deadline_fails_instead_of_running(store: JobStore) -> None:
    accept(store, deadline_at=store.records.now())

    assert store.claim(Lane.INTERACTIVE) is None
    assert store.read("job-1").failure == DEADLINE


def test_a_queued_job_is_cancelled(store: JobStore) -> None:
    accept(store)

    assert store.cancel("job-1").status is JobStatus.CANCELLED
    assert store.claim(Lane.INTERACTIVE) is None


def test_a_running_job_is_cancelled_under_its_runner(store: JobStore) -> None:
    accept(store)
    job = claim(store)
    store.cancel("job-1")

    assert not store.has_lease(job)
    with pytest.raises(LeaseLostError):
        store.finish(job, None)
    assert store.read("job-1").status is JobStatus.CANCELLED


def test_a_cancelled_job_is_cancelled_again(store: JobStore) -> None:
    accept(store)

    assert store.cancel("job-1") == store.cancel("job-1")


@pytest.mark.parametrize("failure", [None, JobFailure("m", "t", "c")])
def test_a_finished_job_is_not_cancelled(store: JobStore, failure: JobFailure | None) -> None:
    accept(store)
    finished = store.finish(claim(store), failure)

    with pytest.raises(JobFinishedError):
        store.cancel("job-1")
    assert store.read("job-1") == finished


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    with pytest.raises(JobNotFoundError):
        store.read("job-9")
    with pytest.raises(JobNotFoundError):
        store.cancel("job-9")


def test_an_owner_lists_its_own_jobs_by_page(store: JobStore) -> None:
    now = store.records.now()
    for number in range(5):
        accept(store, f"job-{number}", created_at=now + number)
    accept(store, "other", owner="key-2")

    first = store.list_of("anonymous", after=None, limit=3)
    second = store.list_of("anonymous", after=first[-1].id, limit=3)
    assert [job.id for job in first] == ["job-4", "job-3", "job-2"]
    assert [job.id for job in second] == ["job-1", "job-0"]
    assert store.list_of("anonymous", after="other", limit=3) == []


def test_a_finished_job_is_forgotten_after_its_retention(store: JobStore) -> None:
    brief = JobStore(store.records, replace(LASTING, retention_s=0.0))
    accept(store, "kept")
    accept(store, "gone")
    brief.cancel("gone")

    assert brief.sweep() == 1
    assert [job.id for job in store.list_of("anonymous", after=None, limit=9)] == ["kept"]


def test_a_webhook_is_owed_the_statuses_in_order(store: JobStore) -> None:
    accept(store, webhook_url="https://example.com/x")
    store.finish(claim(store), None)

    taken = take_delivery(store)
    assert taken is not None
    assert [each.event for each in taken.deliveries] == ["job.running", "job.succeeded"]
    assert take_delivery(store) is None
    store.settle_delivery(taken, retry_in_s=None)
    last = take_delivery(store)
    assert last is not None
    assert [each.event for each in last.deliveries] == ["job.succeeded"]
    store.settle_delivery(last, retry_in_s=None)
    assert take_delivery(store) is None


def test_a_delivery_is_tried_again_when_its_sender_died(store: JobStore) -> None:
    accept(store, webhook_url="https://example.com/x")
    claim(store)
    take_delivery(store, within_s=0.0)

    again = take_delivery(store)
    assert again is not None
    assert again.deliveries[0].attempts == 2


def test_a_failed_delivery_waits(store: JobStore) -> None:
    accept(store, webhook_url="https://example.com/x")
    claim(store)
    taken = take_delivery(store)
    assert taken is not None

    assert store.settle_delivery(taken, retry_in_s=60.0).deliveries == taken.deliveries
    assert take_delivery(store) is None


def test_of_two_senders_that_see_a_delivery_one_gets_it(store: JobStore) -> None:
    accept(store, webhook_url="https://example.com/x")
    claim(store)
    [due] = store.due_deliveries(limit=8)

    assert store.take_delivery(due, within_s=60.0, max_attempts=10) is not None
    assert store.take_delivery(due, within_s=60.0, max_attempts=10) is None
    store.put_back_delivery(due, wait_s=0.0, max_age_s=60.0)
    assert store.due_deliveries(limit=8) == []


def test_a_delivery_whose_senders_all_died_is_dropped_and_the_next_one_goes(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    accept(store, webhook_url="https://example.com/x")
    store.finish(claim(store), None)
    for _ in range(3):
        assert take_delivery(store, within_s=0.0, max_attempts=3) is not None

    assert take_delivery(store, max_attempts=3) is None
    assert [each.getMessage() for each in caplog.records] == [
        "webhook msg-job-1-running is given up: no end of try 3"
    ]
    last = take_delivery(store, max_attempts=3)
    assert last is not None
    assert [each.event for each in last.deliveries] == ["job.succeeded"]


def test_a_delivery_is_put_back_without_a_try(store: JobStore) -> None:
    accept(store, webhook_url="https://example.com/x")
    claim(store)
    [due] = store.due_deliveries(limit=8)
    store.put_back_delivery(due, wait_s=0.0, max_age_s=60.0)

    [again] = store.due_deliveries(limit=8)
    assert again.deliveries == due.deliveries
    store.put_back_delivery(again, wait_s=60.0, max_age_s=60.0)
    assert store.due_deliveries(limit=8) == []


def test_a_delivery_that_is_too_old_to_be_put_back_is_dropped(store: JobStore) -> None:
    accept(store, webhook_url="https://example.com/x")
    claim(store)
    [due] = store.due_deliveries(limit=8)
    store.put_back_delivery(due, wait_s=0.0, max_age_s=-1.0)

    assert store.read("job-1").deliveries == ()


def test_a_job_that_owes_a_message_outlives_its_retention(store: JobStore) -> None:
    brief = JobStore(store.records, replace(LASTING, retention_s=0.0))
    accept(brief, webhook_url="https://example.com/x")
    brief.cancel("job-1")

    assert brief.sweep() == 0
    taken = take_delivery(brief)
    assert taken is not None
    assert brief.sweep() == 0
    brief.settle_delivery(taken, retry_in_s=None)
    assert brief.sweep() == 1


class ExtendingStore(SqliteRecordStore):
    """Gives a record more time as soon as the sweep has found it, before it is read."""

    def read(self, id: str) -> Record | None:
        found = super().read(id)
        assert found is not None
        self.replace(replace(found, indexes={EXPIRY_INDEX: self.now() + 60.0}))
        return super().read(id)


def test_a_record_that_is_given_more_time_is_not_swept(tmp_path: Path) -> None:
    with contextlib.closing(ExtendingStore(tmp_path / "jobs.sqlite3")) as records:
        records.insert(Record("kept", "{}", indexes={EXPIRY_INDEX: records.now()}))

        assert JobStore(records, LASTING).sweep() == 0
        assert records.read("kept") is not None


def test_any_number_of_jobs_of_another_version_hold_up_no_lane(store: JobStore) -> None:
    insert_unreadable(store, queue_index(Lane.INTERACTIVE), range(40))
    accept(store)

    assert claim(store).id == "job-1"
    assert store.claim(Lane.INTERACTIVE) is None


def test_a_silent_job_behind_many_of_another_version_is_claimed_before_those_that_wait(
    store: JobStore,
) -> None:
    insert_unreadable(store, lease_index(Lane.INTERACTIVE), range(40))
    accept(store, "silent")
    claim(silent(store))
    accept(store, "waiting")

    assert claim(store).id == "silent"


def test_jobs_past_their_deadline_do_not_hide_the_one_that_waits_longest(store: JobStore) -> None:
    now = store.records.now()
    for number in range(8):
        accept(store, f"late-{number}", created_at=now + number, deadline_at=now)
    for number in range(10, 20):
        accept(store, f"job-{number}", created_at=now + number)

    assert claim(store).id == "job-10"


def test_jobs_of_another_version_hold_up_no_webhook(store: JobStore) -> None:
    insert_unreadable(store, WEBHOOK_INDEX, range(40))
    accept(store, webhook_url="https://example.com/x")
    claim(store)

    taken = take_delivery(store)
    assert taken is not None
    assert taken.id == "job-1"


def test_a_list_passes_over_jobs_of_another_version(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    now = store.records.now()
    accept(store, "early", created_at=now)
    insert_unreadable(store, owner_index("anonymous"), [now + 1 + number for number in range(5)])
    accept(store, "late", created_at=now + 9)

    assert [job.id for job in store.list_of("anonymous", after=None, limit=2)] == ["late", "early"]
    assert [each.getMessage() for each in caplog.records] == [
        "5 jobs of another version were left out of a list"
    ]
