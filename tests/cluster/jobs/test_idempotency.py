"""One execution a key, whoever asks and whoever dies."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from record_stores import KINDS, OpenStore

from cluster.errors import LeaseLostError
from cluster.jobs.idempotency import IdempotencyStore, IdempotentCall, Verdict

CALL = IdempotentCall("anonymous", "key", "fingerprint")


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    with KINDS[request.param](tmp_path) as open_store:
        yield open_store


@pytest.fixture
def store(open_store: OpenStore) -> IdempotencyStore:
    return IdempotencyStore(open_store(), lease_s=60.0, retention_s=60.0)


def test_the_first_executes_and_the_second_waits(store: IdempotencyStore) -> None:
    assert store.claim(CALL, "a")[0] is Verdict.EXECUTE
    assert store.claim(CALL, "b")[0] is Verdict.WAIT


def test_of_many_at_once_one_executes(open_store: OpenStore) -> None:
    stores = [IdempotencyStore(open_store(), lease_s=60.0, retention_s=60.0) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda i: stores[i].claim(CALL, str(i))[0], range(8)))

    assert sorted(verdicts) == [Verdict.EXECUTE] + 7 * [Verdict.WAIT]


def test_an_outcome_is_replayed(store: IdempotencyStore) -> None:
    store.claim(CALL, "a")
    store.complete(CALL, "a", "outcome")

    verdict, claim = store.claim(CALL, "b")
    assert (verdict, claim.outcome) == (Verdict.REPLAY, "outcome")


def test_the_same_key_with_another_body_conflicts(store: IdempotencyStore) -> None:
    store.claim(CALL, "a")

    other = IdempotentCall("anonymous", "key", "other")
    assert store.claim(other, "b")[0] is Verdict.CONFLICT


def test_another_owner_has_keys_of_its_own(store: IdempotencyStore) -> None:
    store.claim(CALL, "a")

    other = IdempotentCall("key-2", "key", "other")
    assert store.claim(other, "b")[0] is Verdict.EXECUTE


def test_an_abandoned_key_is_free(store: IdempotencyStore) -> None:
    store.claim(CALL, "a")
    store.abandon(CALL, "a")

    assert store.claim(CALL, "b")[0] is Verdict.EXECUTE


def test_a_key_that_is_handed_over_keeps_its_nonce_and_its_body(store: IdempotencyStore) -> None:
    _, first = store.claim(CALL, "a")
    store.hand_over(CALL, "a")

    other = IdempotentCall("anonymous", "key", "other")
    assert store.claim(other, "b")[0] is Verdict.CONFLICT
    verdict, second = store.claim(CALL, "b")
    assert (verdict, second.nonce) == (Verdict.RESUME, first.nonce)
    assert store.claim(CALL, "c")[0] is Verdict.WAIT
    with pytest.raises(LeaseLostError):
        store.hand_over(CALL, "a")


def test_a_silent_execution_is_taken_over_and_draws_the_same(open_store: OpenStore) -> None:
    silent = IdempotencyStore(open_store(), lease_s=0.0, retention_s=60.0)
    _, first = silent.claim(CALL, "a")
    verdict, second = silent.claim(CALL, "b")

    assert verdict is Verdict.RESUME
    assert second.nonce == first.nonce
    with pytest.raises(LeaseLostError):
        silent.complete(CALL, "a", "late")


def test_a_renewed_execution_is_not_taken_over(open_store: OpenStore) -> None:
    records = open_store()
    IdempotencyStore(records, lease_s=0.0, retention_s=60.0).claim(CALL, "a")
    lasting = IdempotencyStore(records, lease_s=60.0, retention_s=60.0)
    lasting.renew(CALL, "a")

    assert lasting.claim(CALL, "b")[0] is Verdict.WAIT


def test_a_key_is_forgotten_after_its_retention(open_store: OpenStore) -> None:
    brief = IdempotencyStore(open_store(), lease_s=60.0, retention_s=0.0)
    brief.claim(CALL, "a")

    other = IdempotentCall("anonymous", "key", "other")
    assert brief.claim(other, "b")[0] is Verdict.EXECUTE
