"""`zimage-serve top` out of exporters' pages."""

import pytest
from fastapi import FastAPI
from local_service import serve_locally
from service import free_port
from starlette.responses import PlainTextResponse

from deployments.cli import main
from deployments.exposition import Snapshot, Window
from deployments.top_view import render_top

PAGE = """
# TYPE ray_zimage_backlog_units gauge
ray_zimage_backlog_units{{pool="big",replica="a",NodeAddress="n1"}} 4.0
ray_zimage_backlog_units{{pool="big",replica="b",NodeAddress="n1"}} 8.0
# TYPE ray_zimage_queue_age_seconds gauge
ray_zimage_queue_age_seconds{{pool="big",replica="a"}} 0.5
ray_zimage_queue_age_seconds{{pool="big",replica="b"}} 2.5
# TYPE ray_zimage_step_duration_seconds histogram
ray_zimage_step_duration_seconds_count{{pool="big",replica="a"}} {steps}
# TYPE ray_zimage_step_busy_seconds_total counter
ray_zimage_step_busy_seconds_total{{pool="big",replica="a"}} {busy}
# TYPE ray_zimage_step_requests_total counter
ray_zimage_step_requests_total{{pool="big",replica="a"}} {items}
# TYPE ray_zimage_requests_total counter
ray_zimage_requests_total{{outcome="succeeded"}} {calls}
# TYPE ray_zimage_deadlines_total counter
ray_zimage_deadlines_total{{result="met"}} 3
ray_zimage_deadlines_total{{result="missed"}} 1
# TYPE ray_zimage_gpu_memory_peak_bytes gauge
ray_zimage_gpu_memory_peak_bytes{{stage="denoise"}} 13958643712
"""


def snapshot(at_s: float, **values: float) -> Snapshot:
    return Snapshot.from_pages([PAGE.format(**values)], at_s)


@pytest.fixture
def window() -> Window:
    """Ten seconds of 20 forwards with two requests each, half of the time."""
    return Window(
        snapshot(100.0, steps=50, busy=20.0, items=60, calls=7),
        snapshot(110.0, steps=70, busy=30.0, items=100, calls=12),
    )


def test_a_pool_has_its_replicas_its_backlog_and_its_rates(window: Window) -> None:
    [pool] = [line.split() for line in render_top(window) if line.startswith("big ")]

    #       name   replicas backlog oldest steps/s units/s batch busy %
    assert pool == ["big", "2", "12.0", "2.5", "2.0", "0.0", "2.0", "50"]


def test_replicas_are_listed_with_their_own_backlog(window: Window) -> None:
    lines = [line.split() for line in render_top(window)]

    assert ["a", "big", "4.0", "0.5"] in lines
    assert ["b", "big", "8.0", "2.5"] in lines


def test_calls_deadlines_and_memory_are_shown(window: Window) -> None:
    text = "\n".join(render_top(window))

    assert "succeeded 0.50/s" in text
    assert "deadlines met since the start: 75.0 %" in text
    assert "denoise 13.0 GiB" in text


def test_a_counter_that_started_over_counts_from_zero() -> None:
    window = Window(
        snapshot(100.0, steps=50, busy=20.0, items=60, calls=7),
        snapshot(110.0, steps=20, busy=5.0, items=20, calls=1),
    )

    assert window.rate_by("ray_zimage_step_duration_seconds_count", "pool") == {"big": 2.0}


@pytest.mark.parametrize("page", ['{"status": "ok"}', "<html></html>", "# TYPE x"])
def test_a_page_without_metrics_is_told_in_a_line(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FastAPI()
    other.get("/healthz")(lambda: PlainTextResponse(page))
    other.get("/metrics")(lambda: PlainTextResponse('ray_zimage_backlog_units{pool="big"} 1'))

    with serve_locally(other) as url:
        assert main(["top", f"{url}/healthz", "--once"]) == 1
        alone = capsys.readouterr().out
        assert main(["top", f"{url}/healthz", f"{url}/metrics", "--once"]) == 0
        beside = capsys.readouterr().out

    line = f"{url}/healthz: ExpositionError: the page must be metrics in Prometheus' text form"
    assert alone.splitlines() == [line]
    assert beside.splitlines()[-1] == line
    assert "big" in beside


def test_an_exporter_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/metrics"

    assert main(["top", url, "--once"]) == 1
    assert url in capsys.readouterr().out


@pytest.mark.parametrize("text", ["-1", "0", "nan", "inf", "soon"])
def test_an_interval_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["top", "http://127.0.0.1:1/metrics", "--interval", text])

    assert f"--interval: must be a number above 0, got {text!r}" in capsys.readouterr().err
