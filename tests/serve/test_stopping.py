"""A service that is told to stop ends cleanly, and leaves nothing behind."""

import signal
from pathlib import Path

import psutil
import pytest
from service import run_service

pytestmark = pytest.mark.serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_stops_every_process(
    tiny_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--model", str(tiny_model), "--store", str(tmp_path / "images"))
    with run_service(tmp_path, *options) as service:
        started = psutil.Process(service.process.pid).children(recursive=True)
        names = {process.name() for process in started}
        service.process.send_signal(number)
        exit_code = service.process.wait(60)

    assert exit_code == 0
    assert {"raylet", "gcs_server"} <= names
    assert [process for process in started if process.is_running()] == []
