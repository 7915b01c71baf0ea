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
    assert trace.times_s.tolist() == [0.0, 2.0]
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
        ("x,512,512,batch", "line 3 of trace.csv: time_s must be a number of at least 0, got 'x'"),
        (
            "-5,512,512,batch",
            "line 3 of trace.csv: time_s must be a number of at least 0, got '-5'",
        ),
        (
            "nan,512,512,batch",
            "line 3 of trace.csv: time_s must be a number of at least 0, got 'nan'",
        ),
        ("1,0,512,batch", "line 3 of trace.csv: height must be positive and divide by 16, got '0'"),
        ("1,512,500,batch", "line 3 of trace.csv: width must be positive and divide by 16"),
        ("1,512,512,urgent", "line 3 of trace.csv: priority must be one of"),
        ("1,512,,batch", "line 3 of trace.csv: columns must be"),
        ("1,512,512,batch,7", "line 3 of trace.csv: columns must be"),
    ],
)
def test_a_wrong_row_is_named_by_its_line_and_column(
    tmp_path: Path, row: str, message: str
) -> None:
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
        ('{"time_s": 0}', "line 1 of trace.jsonl: columns must be"),
        (
            '{"time_s": 0, "height": 512, "width": 512, "num_inference_steps": 0}',
            r"num_inference_steps must be a whole number in \[1, 50\], got '0'",
        ),
        (
            '{"time_s": 0, "height": 512, "width": 512, "timeout_s": 0}',
            "timeout_s must be a number above 0, got '0'",
        ),
        (
            '{"time_s": 0, "height": 512, "width": 512, "is_job": "perhaps"}',
            r"is_job must be one of \['false', 'true'\], got 'perhaps'",
        ),
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


def test_times_of_the_epoch_count_from_the_first_arrival(tmp_path: Path) -> None:
    text = "time_s,height,width\n1750000000.5,512,512\n1750000000,512,512\n"
    assert read_trace(write(tmp_path, "trace.csv", text)).times_s.tolist() == [0.0, 0.5]


def test_times_that_lie_years_apart_are_refused(tmp_path: Path) -> None:
    text = "time_s,height,width\n0,512,512\n1750000000,512,512\n"
    with pytest.raises(PlanError, match=r"time_s of trace\.csv must be at most 2678400 s after"):
        read_trace(write(tmp_path, "trace.csv", text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"time_s,height,width\n\xff\n")
    with pytest.raises(PlanError, match=r"trace\.csv must be text in UTF-8"):
        read_trace(path)
