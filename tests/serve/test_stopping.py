"""A service that is told to stop ends cleanly, one that cannot go on says so; neither lingers."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from service import Service, run_service

pytestmark = [pytest.mark.serve, pytest.mark.cluster]

LEFT_WITHIN_S = 90.0


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


def test_a_call_is_finished_before_the_service_stops(tiny_model: Path, tmp_path: Path) -> None:
    options = ("--model", str(tiny_model), "--store", str(tmp_path / "images"))
    # About two seconds on two cores.
    body = {"prompt": "a red circle", "size": "512x512", "num_inference_steps": 50}
    with run_service(tmp_path, *options) as service, ThreadPoolExecutor(1) as pool:
        address = f"{service.url}/v1/images/generations"
        call = pool.submit(httpx.post, address, json=body, timeout=60)
        time.sleep(0.5)
        was_open = not call.done()
        service.process.send_signal(signal.SIGINT)
        answer = call.result()
        exit_code = service.process.wait(60)

    assert was_open
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 1
    assert exit_code == 0


@pytest.mark.timeout(450)
@pytest.mark.parametrize(
    ("victim", "ended"),
    [
        pytest.param("gcs_server", "gcs_server", marks=pytest.mark.slow),
        ("raylet", "raylet"),
        # Its raylet ends with it.
        ("ray::RuntimeEnvAgent", "raylet"),
    ],
)
def test_the_end_of_a_process_that_nothing_replaces_ends_the_service_with_an_error(
    tiny_model: Path, tmp_path: Path, victim: str, ended: str
) -> None:
    options = ("--model", str(tiny_model), "--store", str(tmp_path / "images"))
    with run_service(tmp_path, *options) as service:
        started = psutil.Process(service.process.pid).children(recursive=True)
        [process] = [each for each in started if each.name() == victim]
        process.kill()
        exit_code = service.process.wait(60)

    assert exit_code == 1
    assert last_line(service) == f"zimage-serve: Ray's {ended} ended, and with it the service"
    # Agents of Ray's try to reach a control store that is gone, for a minute.
    psutil.wait_procs(started, timeout=LEFT_WITHIN_S)
    assert [each for each in started if each.is_running()] == []


def last_line(service: Service) -> str:
    return service.log.read_text("utf-8").splitlines()[-1]
