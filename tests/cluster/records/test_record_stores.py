"""What every record store promises."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from record_stores import KINDS, OpenStore

from cluster.errors import PayloadsFullError
from cluster.records import Event, Record, RecordStore


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    with KINDS[request.param](tmp_path) as open_store:
        yield open_store


@pytest.fixture
def store(open_store: OpenStore) -> RecordStore:
    return open_store()


def test_a_store_that_is_set_up_well_passes_its_check(store: RecordStore) -> None:
    store.check()


def test_a_record_reads_back_elsewhere(store: RecordStore, open_store: OpenStore) -> None:
    store.insert(Record("a", "body é 图\n", guard="g"), payload="payload")
    other = open_store()

    assert other.read("a") == Record("a", "body é 图\n", version=1, guard="g")
    assert other.read_payload("a") == "payload"


def test_an_unknown_record_is_none(store: RecordStore) -> None:
    assert store.read("a") is None
    assert store.read_payload("a") is None
    assert store.read_outcomes("a") == {}
    assert store.read_events("a", after=0) == []


def test_an_id_is_inserted_once(store: RecordStore) -> None:
    assert store.insert(Record("a", "first", indexes={"x": 1.0}))
    assert not store.insert(Record("a", "second", indexes={"y": 1.0}))

    assert store.read("a") == Record("a", "first", version=1)
    assert store.page("y", after=None, limit=9) == []


def test_a_replacement_needs_the_version_that_the_store_has(store: RecordStore) -> None:
    store.insert(Record("a", "1"))

    assert store.replace(Record("a", "2", version=1, guard="g"))
    assert not store.replace(Record("a", "3", version=1))
    assert store.read("a") == Record("a", "2", version=2, guard="g")


def test_a_record_that_is_gone_is_not_replaced(store: RecordStore) -> None:
    assert not store.replace(Record("a", "2", version=1, indexes={"x": 1.0}))
    assert store.count("x", below=9.0) == 0


def test_of_many_writers_at_once_one_replaces(open_store: OpenStore) -> None:
    stores = [open_store() for _ in range(8)]
    stores[0].insert(Record("a", "0"))
    with ThreadPoolExecutor(8) as threads:
        written = list(
            threads.map(
                lambda indexed: indexed[1].replace(Record("a", str(indexed[0]), version=1)),
                enumerate(stores),
            )
        )

    assert sum(written) == 1
    assert stores[0].read("a") == Record("a", str(written.index(True)), version=2)


def test_indexes_follow_the_record(store: RecordStore) -> None:
    store.insert(Record("a", "", indexes={"x": 5.0, "y": 1.5}))
    store.replace(Record("a", "", version=1, indexes={"x": 7.0}))

    assert store.first("x", until=6.9, limit=9) == []
    assert store.first("x", until=7.0, limit=9) == ["a"]
    assert store.page("y", after=None, limit=9) == []


def test_the_first_of_an_index_have_the_lowest_scores(store: RecordStore) -> None:
    for id, score in (("c", 3.0), ("a", 1.0), ("d", 4.0), ("b", 2.0)):
        store.insert(Record(id, "", indexes={"x": score}))

    assert store.first("x", until=3.0, limit=9) == ["a", "b", "c"]
    assert store.first("x", until=float("inf"), limit=2) == ["a", "b"]
    assert store.count("x", below=3.0) == 2
    assert store.count("x", below=float("inf")) == 4


def test_scores_keep_the_microseconds_of_a_clock(store: RecordStore) -> None:
    store.insert(Record("a", "", indexes={"x": 1_795_000_000.123457}))

    assert store.count("x", below=1_795_000_000.123457) == 0
    assert store.count("x", below=1_795_000_000.123458) == 1


def test_pages_cover_an_index_once_with_equal_scores_too(store: RecordStore) -> None:
    for id, score in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 2.0), ("e", 0.0)):
        store.insert(Record(id, "", indexes={"x": score}))

    assert store.page("x", after=None, limit=2) == ["d", "c"]
    assert store.page("x", after="c", limit=2) == ["b", "a"]
    assert store.page("x", after="a", limit=2) == ["e"]
    assert store.page("x", after="e", limit=2) == []


def test_a_page_after_a_stranger_is_empty(store: RecordStore) -> None:
    store.insert(Record("a", "", indexes={"x": 1.0}))
    store.insert(Record("b", "", indexes={"y": 1.0}))

    assert store.page("x", after="b", limit=9) == []


def test_the_first_outcome_stays(store: RecordStore) -> None:
    store.insert(Record("a", "", guard="g"))

    assert store.put_outcome("a", "0", "first", guard="g")
    assert store.put_outcome("a", "0", "second", guard="g")
    assert store.put_outcome("a", "1", "other", guard="g")
    assert store.read_outcomes("a") == {"0": "first", "1": "other"}


def test_a_worker_without_the_guard_writes_nothing(store: RecordStore) -> None:
    store.insert(Record("a", "", guard="g"))
    store.replace(Record("a", "", version=1, guard="h"))

    assert not store.put_outcome("a", "0", "x", guard="g")
    assert not store.append_event("a", "x", keep=9, guard="g")
    assert not store.append_event("unknown", "x", keep=9, guard="g")
    assert store.read_outcomes("a") == {}
    assert store.read_events("a", after=0) == []


def test_events_are_numbered_and_read_from_any_of_them(store: RecordStore) -> None:
    store.insert(Record("a", "", guard="g"))
    for body in "xyz":
        store.append_event("a", body, keep=9, guard="g")

    assert store.read_events("a", after=0) == [Event(1, "x"), Event(2, "y"), Event(3, "z")]
    assert store.read_events("a", after=2) == [Event(3, "z")]
    assert store.read_events("a", after=3) == []
    assert store.read_events("a", after=99) == []


def test_the_last_events_are_kept_under_their_numbers(store: RecordStore) -> None:
    store.insert(Record("a", "", guard="g"))
    for number in range(1, 7):
        store.append_event("a", str(number), keep=3, guard="g")

    assert store.read_events("a", after=0) == [Event(4, "4"), Event(5, "5"), Event(6, "6")]
    assert store.read_events("a", after=5) == [Event(6, "6")]


def test_payloads_are_bounded_in_bytes_together(store: RecordStore) -> None:
    assert store.insert(Record("a", ""), payload=3 * "é", max_payload_bytes=6)
    with pytest.raises(PayloadsFullError):
        store.insert(Record("b", "", indexes={"x": 1.0}), payload="p", max_payload_bytes=6)

    assert not store.insert(Record("a", ""), payload="p", max_payload_bytes=6)
    assert (store.read("b"), store.count("x", below=9.0), store.payload_bytes()) == (None, 0, 6)
    assert store.insert(Record("b", ""), max_payload_bytes=6)


def test_a_payload_that_is_dropped_or_deleted_leaves_room(store: RecordStore) -> None:
    for id in ("a", "b", "c"):
        store.insert(Record(id, ""), payload="payload")
    store.replace(Record("a", "", version=1), drops_payload=True)
    store.replace(Record("a", "", version=2), drops_payload=True)
    store.replace(Record("a", "", version=1), drops_payload=True)
    store.replace(Record("b", "", version=1))
    store.delete(Record("a", "", version=3))
    store.delete(Record("c", "", version=1))

    assert store.payload_bytes() == 7
    assert store.read_payload("b") == "payload"


def test_a_dropped_payload_is_empty(store: RecordStore) -> None:
    store.insert(Record("a", ""), payload="payload")
    store.replace(Record("a", "", version=1), drops_payload=True)

    assert store.read_payload("a") == ""


def test_many_writers_at_once_keep_no_more_bytes_than_they_may(open_store: OpenStore) -> None:
    stores = [open_store() for _ in range(8)]

    def insert(number: int) -> bool:
        try:
            return stores[number].insert(
                Record(str(number), ""), payload="1234", max_payload_bytes=12
            )
        except PayloadsFullError:
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(insert, range(8))) == 3
    assert stores[0].payload_bytes() == 12


def test_a_deleted_record_leaves_nothing(store: RecordStore) -> None:
    store.insert(Record("a", "", guard="g", indexes={"x": 1.0}), payload="p")
    store.put_outcome("a", "0", "x", guard="g")
    store.append_event("a", "x", keep=9, guard="g")

    assert store.delete(Record("a", "", version=1))
    assert store.read("a") is None
    assert store.read_payload("a") is None
    assert store.read_outcomes("a") == {}
    assert store.read_events("a", after=0) == []
    assert store.count("x", below=9.0) == 0


def test_a_record_that_has_changed_is_not_deleted(store: RecordStore) -> None:
    store.insert(Record("a", "1"))
    store.replace(Record("a", "2", version=1))

    assert not store.delete(Record("a", "1", version=1))
    assert store.read("a") is not None


def test_the_clock_goes_forward(store: RecordStore) -> None:
    assert store.now() <= store.now()
    assert store.now() > 1_700_000_000


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ü", 257 * "a"])
def test_a_name_that_would_break_a_script_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="an index must be named"):
        Record("a", "", indexes={name: 1.0})
