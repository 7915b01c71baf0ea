import pytest
from fastapi import FastAPI
from local_service import serve_locally

from deployments.commands.tour import STOPS, Stop, describe, show_tour

STOP = Stop("512x512", path="tiled")


def test_a_line_names_pool_path_and_reason() -> None:
    answer = {
        "path": "tiled",
        "timings": {"total_ms": 1234.5},
        "routing": {"pool": "cards", "explanation": "the only one", "estimate_ms": 1000.0},
    }

    words = describe(STOP, 200, answer).split()

    assert words[:5] == ["512x512", "interactive", "tiled", "cards", "tiled"]
    assert words[-3:] == ["the", "only", "one"]


def test_a_refusal_is_told_in_its_own_words() -> None:
    refusal = {"error": {"message": "no pool is up"}}

    assert describe(STOP, 503, refusal).endswith("no pool is up")


def test_the_tour_goes_past_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    service = FastAPI()

    @service.post("/v1/images/generations")
    def draw() -> dict[str, object]:
        routing = {"pool": "cards", "explanation": "the only one", "estimate_ms": 1.0}
        return {"path": "tiled", "timings": {"total_ms": 1.0}, "routing": routing}

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    lines: list[str] = []

    with serve_locally(service) as url:
        show_tour(url, lines.append)

    assert [line.split()[3] for line in lines[1:]] == ["cards"] * len(STOPS)
