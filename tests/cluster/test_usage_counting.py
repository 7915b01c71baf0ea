"""Whatever is exported twice, or in another order, counts once."""

import dataclasses
import io
import json
from pathlib import Path
from random import Random

import pytest
from full_disk import no_file_longer_than
from hypothesis import given
from hypothesis import strategies as st
from usage_records import make_record

from cluster.errors import TelemetryError
from cluster.telemetry import Outcome
from cluster.usage import (
    FileExporter,
    Price,
    StageMilliseconds,
    StdoutExporter,
    UsageRecord,
    count_usage,
    hash_input,
    load_secret,
    merge_records,
    read_records,
)

PRICE = Price(currency="EUR", per_cost_unit=0.001, per_image=0.01)
ends = st.builds(
    lambda number, outcome, second: make_record(
        f"id-{number}", outcome=outcome, ended_at=f"2026-11-25T08:15:{second:02}.000+00:00"
    ),
    st.integers(0, 5),
    st.sampled_from(Outcome),
    st.integers(0, 59),
)


@given(st.lists(ends), st.randoms())
def test_sums_depend_on_neither_order_nor_repetition(
    records: list[UsageRecord], random: Random
) -> None:
    shuffled = records * 2
    random.shuffle(shuffled)

    assert count_usage(shuffled, PRICE) == count_usage(records, PRICE)


@given(st.lists(ends, min_size=1))
def test_every_id_counts_once(records: list[UsageRecord]) -> None:
    num_calls = sum(total.num_calls for total in count_usage(records, PRICE))

    assert num_calls == len({record.id for record in records})


@pytest.mark.parametrize("other", [Outcome.LOST, Outcome.FAILED, Outcome.CANCELLED])
def test_a_job_that_was_drawn_after_all_counts_as_drawn(other: Outcome) -> None:
    drawn = make_record("a", outcome=Outcome.SUCCEEDED, ended_at="2026-11-25T08:15:01+00:00")
    later = make_record("a", outcome=other, ended_at="2026-11-25T08:16:00+00:00")

    assert merge_records([drawn, later])["a"].outcome is Outcome.SUCCEEDED


def test_an_end_that_is_known_counts_above_one_that_was_assumed() -> None:
    lost = make_record("a", outcome=Outcome.LOST, ended_at="2026-11-25T09:00:00+00:00")
    failed = make_record("a", outcome=Outcome.FAILED)

    assert merge_records([lost, failed])["a"].outcome is Outcome.FAILED


def test_only_what_succeeded_is_charged() -> None:
    records = [
        make_record("a", outcome=Outcome.SUCCEEDED, num_images=2),
        make_record("b", outcome=Outcome.FAILED),
        make_record("c", outcome=Outcome.SUCCEEDED, key_id="key-1"),
    ]

    anonymous, key_1 = count_usage(records, PRICE)

    assert (anonymous.num_calls, anonymous.num_succeeded, anonymous.num_images) == (2, 1, 2)
    assert anonymous.charge == pytest.approx(0.0245 + 0.02)
    assert key_1.charge == pytest.approx(0.0245 + 0.01)


def test_a_record_reads_back_as_it_was_written() -> None:
    record = dataclasses.replace(
        make_record("a", outcome=Outcome.SUCCEEDED, keys=("images/1.png", "images/2.png")),
        stage_ms=StageMilliseconds(queue=1.5, denoise=20.25),
        peak_memory_bytes=2**30,
    )

    assert UsageRecord.from_line(record.to_line()) == record


def test_files_are_by_the_hour_of_the_end_and_are_appended_to(tmp_path: Path) -> None:
    first = make_record("a", outcome=Outcome.SUCCEEDED, ended_at="2026-11-25T08:59:59.999+00:00")
    second = make_record("b", outcome=Outcome.SUCCEEDED, ended_at="2026-11-25T09:00:00.000+00:00")

    FileExporter(tmp_path).export([first])
    FileExporter(tmp_path).export([first, second])

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["2026-11-25T08.jsonl", "2026-11-25T09.jsonl"]
    assert [record.id for record in read_records(files)] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"hello\n", r"must be a line of JSON, got 'hello.n'"),
        ("{} é".encode("latin-1"), "must be UTF-8, got other bytes"),
    ],
)
def test_a_line_that_is_no_record_is_named_with_its_file(
    line: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(make_record("a").to_line().encode() + line)

    with pytest.raises(TelemetryError, match=rf"{message} in {file}, line 2$"):
        list(read_records([file]))


def test_standard_output_gets_a_line_of_json_a_record() -> None:
    stream = io.StringIO()

    StdoutExporter(stream).export([make_record("a", outcome=Outcome.FAILED)])

    [line] = stream.getvalue().splitlines()
    assert json.loads(line)["outcome"] == "failed"


def test_the_hash_depends_on_the_secret_and_on_the_input() -> None:
    hashes = {hash_input(secret, text) for secret in (b"1" * 16, b"2" * 16) for text in "ab"}

    assert len(hashes) == 4


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "journal" / "secret"

    assert load_secret(file) == load_secret(file)
    assert file.stat().st_mode & 0o077 == 0


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")

    with pytest.raises(TelemetryError, match="must have at least 16 bytes, got 5"):
        load_secret(tmp_path / "secret")


def test_a_record_that_a_full_disk_took_in_part_is_exported_whole_later(tmp_path: Path) -> None:
    exporter = FileExporter(tmp_path)
    first, second = (make_record(each, outcome=Outcome.SUCCEEDED) for each in "ab")
    exporter.export([first])
    [file] = tmp_path.iterdir()
    num_bytes = file.stat().st_size
    with no_file_longer_than(num_bytes + 20), pytest.raises(OSError, match="too large"):
        exporter.export([second])
    num_bytes_after = file.stat().st_size
    exporter.export([second])

    assert num_bytes_after == num_bytes
    assert file.read_text() == first.to_line() + second.to_line()


def test_half_a_line_that_a_dead_machine_left_spoils_no_other_record(tmp_path: Path) -> None:
    exporter = FileExporter(tmp_path)
    exporter.export([make_record("a", outcome=Outcome.SUCCEEDED)])
    [path] = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b'{"id": "lo')

    exporter.export([make_record("b", outcome=Outcome.SUCCEEDED)])

    first, half, second = path.read_text().splitlines()
    assert [json.loads(line)["id"] for line in (first, second)] == ["a", "b"]
    assert half == '{"id": "lo'
