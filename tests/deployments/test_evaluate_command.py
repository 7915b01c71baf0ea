"""`zimage-serve evaluate`: what is refused, and what a service's refusal reads like."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from local_service import serve_locally

from deployments.cli import main

pytest.importorskip("cv2", reason="the extra `evaluate` is not installed")


@pytest.fixture(scope="module")
def url(local_app: FastAPI) -> Iterator[str]:
    with serve_locally(local_app) as url:
        yield url


@pytest.mark.parametrize("ending", ["", "/v1"])
def test_the_services_own_message_is_told(
    url: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluating = ["evaluate", "--url", url + ending, "--count", "2", "--size", "8x8"]

    assert main(evaluating) == 1

    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("zimage-serve: the service refused: size: width must be in ")


@pytest.mark.parametrize("option", ["--count", "--concurrency"])
@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_a_number_that_is_none_is_refused(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", f"{option}={text}"])

    message = f"argument {option}: must be a whole number of at least 1, got {text!r}"
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_a_url_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--url", "http://[::1", "--count", "1"]) == 1

    assert "the service at http://[::1 must answer" in capsys.readouterr().err
