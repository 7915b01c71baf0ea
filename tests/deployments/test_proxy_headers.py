"""What Serve's proxy does to answers."""

import re

import httpx
import pytest
from ray.serve._private.http_util import RequestIdMiddleware as ServesMiddleware
from ray.serve._private.http_util import validate_http_proxy_callback_return
from starlette.responses import PlainTextResponse

from deployments.middleware import RequestIdMiddleware
from deployments.proxy_headers import RequestIdEchoMiddleware, proxy_middlewares


async def _ask(request_id: str, *, is_served: bool = True) -> list[str]:
    """Return the ids of the answer that comes through the proxy's own middlewares."""
    app = PlainTextResponse("x")
    proxy = ServesMiddleware(RequestIdMiddleware(app) if is_served else app)
    through = RequestIdEchoMiddleware(proxy)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(through), base_url="http://test"
    ) as client:
        answer = await client.get("/", headers=[(b"x-request-id", request_id.encode())])
    return answer.headers.get_list("x-request-id")


@pytest.mark.parametrize("is_served", [True, False])
@pytest.mark.parametrize("request_id", ["", "a b", "a\tb", "x" * 129, "é"])
async def test_an_id_that_breaks_the_rule_is_not_echoed(request_id: str, is_served: bool) -> None:
    [echoed] = await _ask(request_id, is_served=is_served)

    assert re.fullmatch("req-[0-9a-f]{24}", echoed)


async def test_an_id_that_keeps_the_rule_is_echoed_once() -> None:
    assert await _ask("mine-1") == ["mine-1"]


def test_serve_takes_what_it_is_given_as_middlewares() -> None:
    [taken] = validate_http_proxy_callback_return(proxy_middlewares())

    assert repr(taken) == "Middleware(RequestIdEchoMiddleware)"
