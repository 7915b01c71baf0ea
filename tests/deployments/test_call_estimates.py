"""What a caller is told of how long it will take, and what it took."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from local_service import build_local_api, local_config


@pytest.fixture
def answers(tiny_model: Path, tmp_path: Path) -> Any:
    """The routing of one call after another, in a service that has drawn nothing yet."""
    app = build_local_api(local_config(tiny_model, tmp_path / "store"))
    transport = httpx.ASGITransport(app=app)

    async def draw(**fields: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post(
                "/v1/images/generations", json={"prompt": "x", "size": "64x64", **fields}
            )
        routing: dict[str, Any] = answer.raise_for_status().json()["routing"]
        return routing

    return draw


async def test_what_other_stages_took_is_expected_of_the_next_call(answers: Any) -> None:
    # The pool in this process foretells nothing of its own.
    first, second = await answers(), await answers()

    assert first["estimate_ms"] == 0.0
    assert second["estimate_ms"] > 0.0
