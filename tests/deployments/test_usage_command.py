"""`zimage-serve usage` sums what was exported."""

import json
from pathlib import Path

import pytest
from usage_records import make_record

from cluster.telemetry import Outcome
from cluster.usage import FileExporter
from deployments.cli import main


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A file with three ids, one of them exported twice."""
    records = [
        make_record("a", outcome=Outcome.SUCCEEDED, key_id="key-1"),
        make_record("b", outcome=Outcome.SUCCEEDED, key_id="key-2", num_images=3),
        make_record("c", outcome=Outcome.LOST, key_id="key-2"),
    ]
    FileExporter(tmp_path).export([*records, records[0]])
    return tmp_path / "2026-11-25T08.jsonl"


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "zimage.yaml"
    file.write_text("usage: {price: {currency: EUR, per_cost_unit: 0.002, per_image: 0.01}}")
    return file


def test_sums_are_by_key_and_an_id_counts_once(
    exported: Path, prices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code = main(["usage", str(exported), "--config", str(prices), "--json"])

    key_1, key_2 = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert exit_code == 0
    assert (key_1["num_calls"], key_1["charge"]) == (1, pytest.approx(0.059))
    assert (key_2["num_calls"], key_2["num_succeeded"], key_2["num_images"]) == (2, 1, 3)
    assert (key_2["charge"], key_2["currency"]) == (pytest.approx(0.079), "EUR")


def test_the_table_names_its_columns_and_the_currency(
    exported: Path, prices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["usage", str(exported), "--config", str(prices)])

    header, first, _ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["key", "day", "model"]
    assert header.endswith("EUR")
    assert first.split() == ["key-1", "2026-11-25", "m", "1", "1", "1", "24.5", "0.0", "0.0590"]


def test_a_file_of_other_lines_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").write_text("hello\n")

    assert main(["usage", "--json", str(tmp_path / "other")]) == 1
    printed = capsys.readouterr()
    assert "must be a line of JSON, got 'hello" in printed.err
    assert not printed.out
