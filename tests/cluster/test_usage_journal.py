"""Records survive the process that wrote them, and nothing else takes a living one's journal."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from full_disk import no_file_longer_than
from usage_records import CollectingExporter, FailingExporter, make_record

from cluster.errors import TelemetryError
from cluster.telemetry import Outcome
from cluster.usage import UsageRecord, UsageRecorder
from cluster.usage import recorder as recorder_module
from cluster.usage.journal import Journal, find_journals, read_journal, take_over

NOW = datetime(2026, 11, 25, 8, 30, tzinfo=UTC)
WITHIN_S = 5.0
ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from usage_records import CollectingExporter, make_record
from cluster.telemetry import Outcome
from cluster.usage import UsageRecorder
recorder = UsageRecorder(Path(sys.argv[1]), CollectingExporter())
recorder.open(make_record("closed"))
recorder.open(make_record("open"))
recorder.close(make_record("closed", outcome=Outcome.SUCCEEDED))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path) -> "subprocess.Popen[str]":
    """A process with one open and one closed record, which has not exported any."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    process.send_signal(number)
    process.communicate()


def test_what_a_killed_process_left_is_closed_as_lost_and_exported_once(
    tmp_path: Path, writer: "subprocess.Popen[str]"
) -> None:
    end(writer, signal.SIGKILL)
    exporter = CollectingExporter()
    survivor = UsageRecorder(tmp_path, exporter, clock=lambda: NOW)

    survivor.export_once()
    survivor.export_once()

    outcomes = [(record.id, record.outcome) for record in exporter.records]
    assert sorted(outcomes) == [("closed", Outcome.SUCCEEDED), ("open", Outcome.LOST)]
    assert len(find_journals(tmp_path)) == 1


def test_a_living_process_keeps_its_journal(
    tmp_path: Path, writer: "subprocess.Popen[str]"
) -> None:
    exporter = CollectingExporter()
    other = UsageRecorder(tmp_path, exporter, clock=lambda: NOW)

    other.export_once()
    num_journals = len(find_journals(tmp_path))
    end(writer, signal.SIGTERM)

    assert exporter.records == []
    assert num_journals == 2


def test_records_wait_for_a_store_that_fails(tmp_path: Path) -> None:
    exporter = FailingExporter(num_failures=2)
    recorder = UsageRecorder(tmp_path, exporter, clock=lambda: NOW)
    recorder.open(make_record("a"))
    recorder.close(make_record("a", outcome=Outcome.SUCCEEDED))

    for _ in range(3):
        recorder.export_once()

    assert [record.id for record in exporter.records] == ["a"]


def test_an_open_record_is_not_exported(tmp_path: Path) -> None:
    exporter = CollectingExporter()
    recorder = UsageRecorder(tmp_path, exporter)
    recorder.open(make_record("a"))

    recorder.export_once()

    assert exporter.records == []
    assert recorder.num_open == 1


def test_a_stopped_recorder_leaves_its_open_records_to_the_next(tmp_path: Path) -> None:
    first = UsageRecorder(tmp_path, CollectingExporter())
    first.open(make_record("a"))
    first.stop()
    exporter = CollectingExporter()

    UsageRecorder(tmp_path, exporter, clock=lambda: NOW).export_once()

    assert [(record.id, record.outcome) for record in exporter.records] == [("a", Outcome.LOST)]


def test_a_journal_reads_back_what_was_not_exported(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(make_record("a"))
    journal.append(make_record("b"))
    journal.append(make_record("b", outcome=Outcome.FAILED))
    journal.append(make_record("c", outcome=Outcome.SUCCEEDED))
    journal.append_exported(["c"])

    left = read_journal(journal.path)

    assert [(record.id, record.outcome) for record in left] == [("a", None), ("b", Outcome.FAILED)]


def test_a_rewritten_journal_holds_only_what_it_was_given_and_stays_locked(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(make_record("a"))
    journal.rewrite([make_record("b")], since=journal.num_bytes)
    journal.append(make_record("c"))

    with take_over(journal.path) as is_dead:
        assert not is_dead
    assert [record.id for record in read_journal(journal.path)] == ["b", "c"]


def test_a_rewritten_journal_holds_what_was_written_since(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(make_record("a"))
    num_bytes = journal.num_bytes
    journal.append(make_record("b"))
    journal.rewrite([], since=num_bytes)

    assert [record.id for record in read_journal(journal.path)] == ["b"]
    assert journal.num_bytes == journal.path.stat().st_size
    assert list(tmp_path.iterdir()) == [journal.path]


class SlowDisk:
    """Syncs at once the first time, and later when it is told to."""

    def __init__(self) -> None:
        self.begins = threading.Semaphore(0)
        self.may_end = threading.Semaphore(1)

    def sync(self, file: int) -> None:
        self.begins.release()
        assert self.may_end.acquire(timeout=WITHIN_S)


def test_no_call_waits_for_the_disk_while_the_journal_is_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk()
    monkeypatch.setattr(os, "fdatasync", disk.sync)
    monkeypatch.setattr(recorder_module, "_REWRITE_BYTES", 1)
    recorder = UsageRecorder(tmp_path, CollectingExporter())
    recorder.open(make_record("a"))
    recorder.close(make_record("a", outcome=Outcome.SUCCEEDED))
    recorder.open(make_record("b"))
    with ThreadPoolExecutor(2) as threads:
        export = threads.submit(recorder.export_once)
        assert disk.begins.acquire(timeout=WITHIN_S)
        for id in ("c", "d"):
            assert disk.begins.acquire(timeout=WITHIN_S)
            threads.submit(recorder.open, make_record(id)).result(timeout=WITHIN_S)
            disk.may_end.release()
        export.result(timeout=WITHIN_S)
    [journal] = find_journals(tmp_path)

    assert [record.id for record in read_journal(journal)] == ["b", "c", "d"]


def test_a_rewrite_whose_draft_cannot_take_all_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    size = journal.num_bytes
    journal.append(make_record("a"))
    longer = [make_record("b"), make_record("c")]
    late = [make_record("d")]
    syncs = iter([late[:0], late])

    def sync(file: int) -> None:
        for record in next(syncs):
            journal.append(record)

    monkeypatch.setattr(os, "fdatasync", sync)
    bytes_of_both = len("".join(record.to_line() for record in longer)) + journal.num_bytes - size
    with no_file_longer_than(bytes_of_both + 20), pytest.raises(OSError, match="took not all"):
        journal.rewrite(longer, since=size)

    assert [record.id for record in read_journal(journal.path)] == ["a", "d"]
    assert list(tmp_path.iterdir()) == [journal.path]


def test_a_journal_that_is_just_begun_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = UsageRecorder(tmp_path, CollectingExporter())
    lock = fcntl.flock

    def lock_late(file: int, operation: int) -> None:
        monkeypatch.undo()
        other.export_once()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    recorder = UsageRecorder(tmp_path, CollectingExporter())
    recorder.open(make_record("a"))

    left = [record.id for path in find_journals(tmp_path) for record in read_journal(path)]
    assert left == ["a"]


def test_a_line_cut_off_at_the_end_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(make_record("a"))
    with journal.path.open("a") as file:
        file.write('{"id":"b","reque')

    assert [record.id for record in read_journal(journal.path)] == ["a"]


def test_a_damaged_line_keeps_no_other_from_being_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    journal.append(make_record("a"))
    with journal.path.open("a") as file:
        file.write('{"id":"b","reque{"id":"c"}\n{"exported": ["a", {"id"\n')
    journal.append(make_record("d"))

    assert [record.id for record in read_journal(journal.path)] == ["a", "d"]
    assert caplog.messages == [f"2 damaged lines of the usage journal {journal.path.name}"]


def test_a_record_that_was_written_in_part_is_taken_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(make_record("a"))
    with no_file_longer_than(journal.num_bytes + 20), pytest.raises(OSError, match="too large"):
        journal.append(make_record("b"))
    journal.append(make_record("c"))

    assert [record.id for record in read_journal(journal.path)] == ["a", "c"]
    assert journal.num_bytes == journal.path.stat().st_size


def test_a_rewrite_that_fails_leaves_the_journal_and_may_be_tried_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(make_record("a"))
    with no_file_longer_than(20), pytest.raises(OSError, match="too large"):
        journal.rewrite([make_record("b")], since=journal.num_bytes)
    before = read_journal(journal.path)
    journal.rewrite([make_record("c")], since=journal.num_bytes)

    assert [record.id for record in before] == ["a"]
    assert [record.id for record in read_journal(journal.path)] == ["c"]


def test_a_closed_journal_refuses_records(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    with (tmp_path / "another").open("w+") as another:  # has the number that the journal had
        with pytest.raises(OSError, match="the usage journal is closed"):
            journal.append(make_record("a"))
        with pytest.raises(OSError, match="the usage journal is closed"):
            journal.sync()
        assert another.read() == ""
    journal.close()


def test_a_stopped_recorder_lets_its_journal_go_though_the_disk_fails(tmp_path: Path) -> None:
    recorder = UsageRecorder(tmp_path, CollectingExporter())
    recorder.open(make_record("a"))
    recorder.close(make_record("a", outcome=Outcome.SUCCEEDED))
    with no_file_longer_than(20), pytest.raises(OSError, match="too large"):
        recorder.stop()

    with take_over(find_journals(tmp_path)[0]) as is_dead:
        assert is_dead


def test_a_dead_journal_stays_until_the_disk_has_taken_its_records(tmp_path: Path) -> None:
    dead = UsageRecorder(tmp_path, FailingExporter(num_failures=1))
    dead.open(make_record("a"))
    dead.open(make_record("b"))
    dead.close(make_record("b", outcome=Outcome.SUCCEEDED))
    dead.stop()
    exporter = CollectingExporter()
    survivor = UsageRecorder(tmp_path, exporter, clock=lambda: NOW)
    with no_file_longer_than(500):
        survivor.export_once()
    left = [record for path in find_journals(tmp_path) for record in read_journal(path)]
    num_exported = len(exporter.records)
    survivor.export_once()

    assert {record.id for record in left} == {"a", "b"}
    assert num_exported == 0
    outcomes = [(record.id, record.outcome) for record in exporter.records]
    assert sorted(outcomes) == [("a", Outcome.LOST), ("b", Outcome.SUCCEEDED)]
    assert len(find_journals(tmp_path)) == 1


def test_a_line_that_is_no_record_is_refused() -> None:
    with pytest.raises(TelemetryError, match="must be a line of JSON, got 'nonsense'"):
        UsageRecord.from_line("nonsense")
