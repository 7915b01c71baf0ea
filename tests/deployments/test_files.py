"""Pictures at their signed URLs: what a browser, a cache and a download manager are told."""

import re
import time
from types import SimpleNamespace

import httpx
import pytest

PICTURE = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 1}


@pytest.fixture
async def url(caller: httpx.AsyncClient) -> str:
    answer = await caller.post("/v1/images/generations", json=PICTURE)
    return str(answer.json()["data"][0]["url"]).removeprefix("http://127.0.0.1")


async def test_a_picture_may_be_kept_as_long_as_its_url_works(
    caller: httpx.AsyncClient, url: str
) -> None:
    headers = (await caller.get(url)).headers
    left_s = int(httpx.URL(url).params["expires"]) - time.time()

    kept = re.fullmatch(r"private, max-age=(\d+), immutable", headers["cache-control"])
    assert kept is not None
    assert left_s - 1 <= int(kept[1]) <= left_s + 5
    assert re.fullmatch('"[0-9a-f]{32}"', headers["etag"])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-type"] == "image/png"


@pytest.mark.parametrize("condition", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
async def test_a_picture_that_the_caller_has_is_not_sent_again(
    caller: httpx.AsyncClient, url: str, condition: str
) -> None:
    first = await caller.get(url)
    tag = first.headers["etag"]

    again = await caller.get(url, headers={"if-none-match": condition.format(tag=tag)})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert "immutable" in again.headers["cache-control"]


@pytest.mark.parametrize("condition", ['"other"', "", "{tag}x"])
async def test_another_picture_is_sent(caller: httpx.AsyncClient, url: str, condition: str) -> None:
    tag = (await caller.get(url)).headers["etag"].strip('"')

    answer = await caller.get(url, headers={"if-none-match": condition.format(tag=tag)})

    assert answer.status_code == 200


@pytest.mark.parametrize("condition", ["*", "{tag}", '"other", {tag}'])
async def test_a_picture_that_the_caller_means_is_sent(
    caller: httpx.AsyncClient, url: str, condition: str
) -> None:
    tag = (await caller.get(url)).headers["etag"]

    answer = await caller.get(url, headers={"if-match": condition.format(tag=tag)})

    assert answer.status_code == 200


@pytest.mark.parametrize("condition", ['"other"', "W/{tag}", "", "other"])
@pytest.mark.parametrize("more", [{}, {"if-none-match": "*"}, {"range": "bytes=0-3"}])
async def test_a_picture_that_the_caller_does_not_mean_is_not_sent(
    caller: httpx.AsyncClient, url: str, condition: str, more: dict[str, str]
) -> None:
    tag = (await caller.get(url)).headers["etag"]
    condition = condition.format(tag=tag)

    answer = await caller.get(url, headers={**more, "if-match": condition})

    assert answer.status_code == 412
    assert answer.json()["error"] == {
        "message": f"if-match must be * or name {tag}, got {condition!r}",
        "type": "invalid_request_error",
        "param": "if-match",
        "code": "precondition_failed",
    }


async def test_a_url_that_is_wrong_is_no_picture_that_the_caller_has(
    caller: httpx.AsyncClient, url: str
) -> None:
    answer = await caller.get(f"{url}0", headers={"if-none-match": "*"})

    assert answer.status_code == 403
    assert "cache-control" not in answer.headers


@pytest.mark.parametrize("spelling", ["+{}", "0{}", "{}.0", " {}", "-{}", "1_{}", "\u0661{}"])
async def test_an_expiry_is_plain_digits(
    caller: httpx.AsyncClient, url: str, spelling: str
) -> None:
    address = httpx.URL(url)
    expires = spelling.format(address.params["expires"])

    answer = await caller.get(address.copy_set_param("expires", expires))

    rule = "expires: must be decimal digits without a leading zero"
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "expires"
    assert answer.json()["error"]["message"] == f"{rule}, got {expires!r}"


async def test_an_expired_url_is_told_from_a_forged_one(
    caller: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires = int(httpx.URL(url).params["expires"])
    monkeypatch.setattr("deployments.files.time", SimpleNamespace(time=lambda: expires + 0.5))

    expired, forged = await caller.get(url), await caller.get(f"{url}0")

    assert (expired.status_code, forged.status_code) == (403, 403)
    assert forged.json()["error"]["code"] == "invalid_signature"
    assert expired.json()["error"] == {
        "message": "the URL expired 1 s ago",
        "type": "invalid_request_error",
        "param": "expires",
        "code": "url_expired",
    }


async def test_a_part_is_sent_alone(caller: httpx.AsyncClient, url: str) -> None:
    whole = (await caller.get(url)).content

    part = await caller.get(url, headers={"range": "bytes=8-15"})

    assert part.status_code == 206
    assert part.content == whole[8:16]
    assert part.headers["content-range"] == f"bytes 8-15/{len(whole)}"
    assert part.headers["content-length"] == "8"
    assert part.headers["content-type"] == "image/png"


async def test_a_part_beyond_the_end_is_refused(caller: httpx.AsyncClient, url: str) -> None:
    length = len((await caller.get(url)).content)

    answer = await caller.get(url, headers={"range": f"bytes={length}-"})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{length}"
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    ("condition", "status"), [("{tag}", 206), ('"other"', 200), ("W/{tag}", 200)]
)
async def test_a_part_is_sent_if_it_is_of_the_same_picture(
    caller: httpx.AsyncClient, url: str, condition: str, status: int
) -> None:
    tag = (await caller.get(url)).headers["etag"]
    headers = {"range": "bytes=0-3", "if-range": condition.format(tag=tag)}

    assert (await caller.get(url, headers=headers)).status_code == status


@pytest.mark.parametrize("condition", [{}, {"if-none-match": "*"}])
async def test_head_agrees_with_get(
    caller: httpx.AsyncClient, url: str, condition: dict[str, str]
) -> None:
    got, head = await caller.get(url, headers=condition), await caller.head(url, headers=condition)

    assert (head.status_code, head.content) == (got.status_code, b"")
    assert _without_age(head.headers) == _without_age(got.headers)


async def test_a_range_is_for_get_alone(caller: httpx.AsyncClient, url: str) -> None:
    length = (await caller.get(url)).headers["content-length"]

    head = await caller.head(url, headers={"range": "bytes=0-3"})

    assert (head.status_code, head.headers["content-length"]) == (200, length)


def _without_age(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "cache-control"}
