from pathlib import Path

import pytest

from deployments.routing.decisions import RequestFacts
from deployments.simulator.errors import PlanError
from deployments.simulator.trace_file import read_trace
from pipeline.request import Priority, RenderPath


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_file_is_read_and_put_in_order(tmp_path: Path) -> None:
    text = "time_s,height,width,timeout_s\n2.5,512,768,30\n0.5,1024,1024,\n"
    trace = read_trace(write(tmp_path, "trace.csv", text))
    assert trace.times_s.tolist() == [0.5, 2.5]
    kinds = [trace.kinds[kind] for kind in trace.kind_of]
    assert kinds == [RequestFacts(1024, 1024, 8), RequestFacts(512, 768, 8, timeout_s=30.0)]


def test_a_jsonl_file_may_say_all_about_a_request(tmp_path: Path) -> None:
    line = (
        '{"time_s": 1, "height": 512, "width": 512, "num_inference_steps": 4, '
        '"priority": "batch", "is_job": true, "path": "tiled", "timeout_s": null}\n'
    )
    trace = read_trace(write(tmp_path, "trace.jsonl", line + line))
    facts = RequestFacts(
        512, 512, 4, priority=Priority.BATCH, is_job=True, pinned_path=RenderPath.TILED
    )
    assert trace.kinds == (facts,)
    assert len(trace) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,512,512,interactive", "row 2 of trace.csv: could not convert"),
        ("1,512,512,urgent", "row 2 of trace.csv: 'urgent' is not a valid Priority"),
        ("1,512,,batch", "row 2 of trace.csv: columns must be"),
    ],
)
def test_a_wrong_row_is_named_by_its_number(tmp_path: Path, row: str, message: str) -> None:
    text = f"time_s,height,width,priority\n0,512,512,batch\n{row}\n"
    with pytest.raises(PlanError, match=message):
        read_trace(write(tmp_path, "trace.csv", text))


def test_a_column_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="columns must be"):
        read_trace(write(tmp_path, "trace.csv", "time_s,height,width,colour\n0,512,512,red\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 of trace.jsonl must be JSON"),
        ("3", "line 1 of trace.jsonl must be an object, got 3"),
        ('{"time_s": 0}', "row 1 of trace.jsonl: columns must be"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_trace(write(tmp_path, "trace.jsonl", line))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="a trace must be a file, got"):
        read_trace(tmp_path / "trace.csv")


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"a trace must be one of .* got trace\.xml"):
        read_trace(tmp_path / "trace.xml")
