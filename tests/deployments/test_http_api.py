"""The HTTP contract in process: what a caller is told, and that its prompt is told to nobody."""

import gzip
import json
import logging
import pickle
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import SteppedStages
from local_service import build_api_over, local_config
from openai.types.images_response import Usage
from torch import Tensor

from deployments.errors import ApiError
from deployments.stages import FileOrder, ImageFile

GENERATIONS = "/v1/images/generations"
SECRET = "zanzibar-4711"
BODY = {"prompt": SECRET, "size": "64x64"}
JSON = {"content-type": "application/json"}

BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"size": "72x64"}, "size", "size: width must divide by 16, got 72"),
    ({"size": "64x72"}, "size", "size: height must divide by 16, got 72"),
    ({"size": "48x64"}, "size", "size: width must be in [64, 1024], got 48"),
    ({"size": "64x1040"}, "size", "size: height must be in [64, 1024], got 1040"),
    ({"size": "112x96"}, "size", "size must have at most 9216 pixels in all, got 10752"),
    ({"size": "big"}, "size", "size must be 'auto' or WIDTHxHEIGHT in pixels, got 'big'"),
    ({"size": "0x64"}, "size", "size must be 'auto' or WIDTHxHEIGHT in pixels, got '0x64'"),
    ({"size": "-64x64"}, "size", "size must be 'auto' or WIDTHxHEIGHT in pixels, got '-64x64'"),
    ({"n": 0}, "n", "n: must be greater than or equal to 1, got 0"),
    ({"n": 11}, "n", "n: must be less than or equal to 10, got 11"),
    ({"n": "1"}, "n", "n: must be a valid integer, got '1'"),
    ({"n": True}, "n", "n: must be a valid integer, got true"),
    (
        {"prompt": ""},
        "prompt",
        "at least 1 character, got a string of 0 characters",
    ),
    ({"prompt": " \n"}, "prompt", "prompt: must not be blank, got a string of 2 characters"),
    ({"prompt": SECRET * 700}, "prompt", "prompt must have at most 8192 bytes, got 9100"),
    ({"prompt": "好" * 2731}, "prompt", "prompt must have at most 8192 bytes, got 8193"),
    ({"prompt": SECRET * 60}, "prompt", "prompt must have at most 512 tokens, got 799"),
    ({"prompt": 7}, "prompt", "prompt: must be a valid string, got a number"),
    ({"prompt": [SECRET]}, "prompt", "prompt: must be a valid string, got a list of 1 item"),
    ({"prompt": None}, "prompt", "prompt: must be a valid string, got null"),
    ({"promt": SECRET}, "promt", "promt must be a known field, did you mean prompt?"),
    ({"stpes": 4}, "stpes", "stpes must be a known field"),
    ({"num_steps": 4}, "num_steps", "num_steps must be a known field, did you mean num_inferen"),
    ({"num_inference_steps": 0}, "num_inference_steps", "greater than or equal to 1, got 0"),
    ({"num_inference_steps": 51}, "num_inference_steps", "less than or equal to 50, got 51"),
    ({"num_inference_steps": 8.5}, "num_inference_steps", "must be a valid integer, got 8.5"),
    ({"seed": -1}, "seed", "seed: must be greater than or equal to 0, got -1"),
    ({"seed": 2**63}, "seed", f"less than or equal to {2**63 - 1}, got {2**63}"),
    ({"seed": 2**63 - 1, "n": 2}, "seed", f"seed + n - 1 must be at most {2**63 - 1}, got seed"),
    ({"guidance_scale": 3.5}, "guidance_scale", "guidance_scale must be 0.0, since this model"),
    ({"quality": "hd"}, "quality", "since num_inference_steps sets the quality here, got 'hd'"),
    ({"style": "natural"}, "style", "since the prompt sets the style here, got 'natural'"),
    ({"background": "transparent"}, "background", "since the model draws no transparency"),
    ({"moderation": "low"}, "moderation", "since this service does not moderate, got 'low'"),
    ({"output_format": "gif"}, "output_format", "must be 'png', 'jpeg' or 'webp', got 'gif'"),
    ({"output_compression": 50}, "output_compression", "must be 100 for png, which is lossless"),
    ({"output_compression": 101}, "output_compression", "less than or equal to 100, got 101"),
    ({"response_format": "x"}, "response_format", "must be 'url' or 'b64_json', got 'x'"),
    ({"path": "tiled"}, "path", "path must be one of ['auto', 'full_image'] here, got 'tiled'"),
    ({"priority": "high"}, "priority", "must be 'interactive' or 'batch', got 'high'"),
    ({"timeout_s": 0}, "timeout_s", "timeout_s: must be greater than 0, got 0"),
    ({"stream": 1}, "stream", "stream: must be true or false, got 1"),
    ({"stream": SECRET.split("-")[1]}, "stream", "stream: must be true or false, got '4711'"),
    ({"seed": None, "n": {}}, "n", "n: must be a valid integer, got an object of 0 fields"),
    (
        {"user": SECRET * 20},
        "user",
        "at most 256 characters, got a string of 260 char",
    ),
]

BAD_BODIES: list[tuple[bytes, str, str]] = [
    (b"", "body", "body must be a JSON object, got none"),
    (b"[]", "body", "body must be a JSON object, got a list of 0 items"),
    (b"null", "body", "body must be a JSON object, got null"),
    (b"4711", "body", "body must be a JSON object, got a number"),
    (f'"{SECRET}"'.encode(), "body", "body must be a JSON object, got a string of 13 characters"),
    (SECRET.encode(), "body", "body must be JSON, Expecting value"),
    (f'{{"prompt": "{SECRET}"'.encode(), "body", "body must be JSON, Expecting ',' delimiter"),
    (b'{"prompt": "\xff"}', "body", "body must be JSON in UTF-8"),
    (b"[" * 200_000, "body", "body must nest its values less deeply"),
    (b'{"prompt":"x","seed":' + b"9" * 5000 + b"}", "body", "numbers of at most 4300 digits"),
    (b'{"prompt":"x","guidance_scale":NaN}', "guidance_scale", "must be a finite number, got NaN"),
    (
        b'{"prompt":"x","timeout_s":-Infinity}',
        "timeout_s",
        "a finite number, got -Infinity",
    ),
    (b'{"prompt":"x","timeout_s":1e999}', "timeout_s", "must be a finite number, got Infinity"),
    (
        f'{{"prompt":"{SECRET} \\ud800"}}'.encode(),
        "prompt",
        "prompt: must have no lone surrogates, got a string of 15 characters",
    ),
    (b'{"prompt":"x","size":"\\ud800"}', "size", "WIDTHxHEIGHT in pixels, got '\\ud800'"),
    (b"{}", "prompt", "prompt must be given"),
    ('{"prompt":"x"}'.encode("utf-16"), "body", "body must be JSON in UTF-8"),
    ('{"prompt":"x"}'.encode("utf-16-le"), "body", "body must be JSON in UTF-8"),
    ('{"prompt":"x"}'.encode("utf-32"), "body", "body must be JSON in UTF-8"),
    (
        f'{{"prompt":"{SECRET}","seed":1,"seed":1}}'.encode(),
        "body",
        "body must name each field once, got 'seed' twice",
    ),
    (b'{"\\ud800":1,"\\ud800":1}', "body", "each field once, got '\\ud800' twice"),
]


def _error(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(("fields", "param", "message"), BAD_FIELDS)
async def test_a_bad_field_is_named_with_its_rule_and_value(
    caller: httpx.AsyncClient, fields: dict[str, Any], param: str, message: str
) -> None:
    answer = await caller.post(GENERATIONS, json={**BODY, **fields})

    assert answer.status_code == 400
    assert message in _error(answer)["message"]
    assert _error(answer)["param"] == param
    assert _error(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(("content", "param", "message"), BAD_BODIES)
async def test_a_body_that_is_no_request_is_refused(
    caller: httpx.AsyncClient, content: bytes, param: str, message: str
) -> None:
    answer = await caller.post(GENERATIONS, content=content, headers=JSON)

    assert answer.status_code == 400
    assert message in _error(answer)["message"]
    assert _error(answer)["param"] == param


@pytest.mark.parametrize("fields", [fields for fields, _, _ in BAD_FIELDS])
async def test_a_refusal_tells_the_prompt_to_nobody(
    caller: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)

    answer = await caller.post(GENERATIONS, json={**BODY, **fields})

    assert SECRET not in answer.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("content", [content for content, _, _ in BAD_BODIES])
async def test_an_unreadable_body_is_told_to_nobody(
    caller: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    caplog.set_level(logging.DEBUG)

    answer = await caller.post(GENERATIONS, content=content, headers=JSON)

    assert SECRET not in answer.text
    assert SECRET not in caplog.text


async def test_a_picture_tells_the_prompt_to_nobody(
    caller: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    answer = await caller.post(GENERATIONS, json=BODY)

    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n": 0}, ["refuse zimage_request_id=mine method=POST route=/v1/images/generations"]),
        # Of the text encoder: a call that is observed has its line from there.
        ({"prompt": SECRET * 60}, []),
    ],
)
async def test_a_refusal_that_nobody_observes_has_one_line_of_log(
    caller: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, Any],
    expected: list[str],
) -> None:
    caplog.set_level(logging.INFO, "ray.serve.zimage")

    answer = await caller.post(
        GENERATIONS, json={**BODY, **fields}, headers={"x-request-id": "mine"}
    )

    assert answer.status_code == 400
    lines = [each.getMessage() for each in caplog.records if "refuse " in each.getMessage()]
    code = _error(answer)["code"]
    assert lines == [f"{line} status=400 error={code}" for line in expected]


async def test_a_probe_that_is_told_to_wait_writes_nothing(
    caller: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ray.serve.zimage")

    answer = await caller.get("/readyz")

    assert answer.status_code in (200, 503)
    assert not caplog.records


@pytest.mark.parametrize(
    ("content_type", "got"),
    [
        ("text/plain", "'text/plain'"),
        ("application/x-www-form-urlencoded", "'application/x-www-form-urlencoded'"),
        ("application/jsonp", "'application/jsonp'"),
        ("json", "'json'"),
        ("", "none"),
        (None, "none"),
    ],
)
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/images/jobs", "/v1/images/batches"])
async def test_a_body_that_is_not_called_json_is_refused(
    caller: httpx.AsyncClient, path: str, content_type: str | None, got: str
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await caller.post(path, content=json.dumps(BODY), headers=headers)

    assert answer.status_code == 415
    assert answer.headers["accept"] == "application/json"
    assert _error(answer) == {
        "message": f"content-type must be application/json, got {got}",
        "type": "invalid_request_error",
        "param": "content-type",
        "code": "unsupported_content_type",
    }


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
async def test_a_body_may_be_called_json_in_other_ways(
    caller: httpx.AsyncClient, content_type: str
) -> None:
    content, headers = json.dumps(BODY), {"content-type": content_type}

    assert (await caller.post(GENERATIONS, content=content, headers=headers)).status_code == 200


async def test_a_body_may_begin_with_utf8s_mark(caller: httpx.AsyncClient) -> None:
    content = json.dumps(BODY).encode("utf-8-sig")

    assert (await caller.post(GENERATIONS, content=content, headers=JSON)).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x" * 200])
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/images/batches"])
async def test_a_compressed_body_is_refused(
    caller: httpx.AsyncClient, path: str, encoding: str
) -> None:
    headers = {**JSON, "content-encoding": encoding}

    answer = await caller.post(path, content=gzip.compress(b"{}"), headers=headers)

    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    message = f"content-encoding must be identity, got '{encoding[:63]}"
    assert _error(answer)["message"].startswith(message)
    assert len(_error(answer)["message"]) < 120


async def test_a_body_may_be_called_uncompressed(caller: httpx.AsyncClient) -> None:
    headers = {"content-encoding": "Identity"}

    assert (await caller.post(GENERATIONS, json=BODY, headers=headers)).status_code == 200


async def _chunks(num_bytes: int) -> AsyncIterator[bytes]:
    for _ in range(num_bytes // 4096 + 1):
        yield b" " * 4096


async def test_a_body_over_the_limit_is_refused_by_its_length(caller: httpx.AsyncClient) -> None:
    answer = await caller.post(GENERATIONS, content=b" " * (2**20 + 1), headers=JSON)

    assert answer.status_code == 413
    assert _error(answer)["message"] == "body must have at most 1048576 bytes"
    assert _error(answer)["code"] == "body_too_large"


@pytest.mark.parametrize("declared", ["1048577", "9" * 5000])
async def test_a_declared_length_over_the_limit_is_refused_however_long(
    caller: httpx.AsyncClient, declared: str
) -> None:
    headers = {**JSON, "content-length": declared}
    answer = await caller.post(GENERATIONS, content=b"{}", headers=headers)

    assert answer.status_code == 413


async def test_a_length_may_have_leading_noughts(caller: httpx.AsyncClient) -> None:
    content = json.dumps(BODY).encode()
    headers = {**JSON, "content-length": f"{len(content):05000}"}

    assert (await caller.post(GENERATIONS, content=content, headers=headers)).status_code == 200


async def test_a_body_over_the_limit_is_refused_without_a_length(
    caller: httpx.AsyncClient,
) -> None:
    answer = await caller.post(GENERATIONS, content=_chunks(2**20), headers=JSON)

    assert "content-length" not in answer.request.headers
    assert answer.status_code == 413


async def test_a_body_at_the_limit_is_read(caller: httpx.AsyncClient) -> None:
    content = json.dumps(BODY).encode().ljust(2**20)

    answer = await caller.post(GENERATIONS, content=content, headers=JSON)

    assert answer.status_code == 200


async def test_an_unknown_model_is_not_found(caller: httpx.AsyncClient) -> None:
    answer = await caller.post(GENERATIONS, json={**BODY, "model": "dall-e-3"})

    assert answer.status_code == 404
    assert _error(answer)["message"] == "model must be 'tiny', got 'dall-e-3'"


async def test_openais_own_fields_are_taken_at_their_defaults(caller: httpx.AsyncClient) -> None:
    defaults = {
        "quality": "auto",
        "style": "vivid",
        "background": "auto",
        "moderation": "auto",
        "stream": False,
        "partial_images": 0,
        "user": "someone",
    }

    answer = await caller.post(GENERATIONS, json={**BODY, **defaults})

    assert answer.status_code == 200


async def test_an_answer_says_how_to_draw_the_picture_again(caller: httpx.AsyncClient) -> None:
    body = {**BODY, "response_format": "b64_json"}
    headers = {"x-request-id": "same"}
    first = (await caller.post(GENERATIONS, json=body, headers=headers)).json()
    seed = first["data"][0]["seed"]

    again = (await caller.post(GENERATIONS, json={**body, "seed": seed}, headers=headers)).json()

    assert again["fingerprint"] == first["fingerprint"]
    assert again["data"][0]["b64_json"] == first["data"][0]["b64_json"]


async def test_usage_has_all_that_the_sdk_requires(caller: httpx.AsyncClient) -> None:
    answer = (await caller.post(GENERATIONS, json=BODY)).json()

    usage = Usage.model_validate(answer["usage"])
    assert usage.input_tokens_details.text_tokens == usage.input_tokens > 0
    assert usage.input_tokens_details.image_tokens == 0


async def test_pictures_of_one_call_have_seeds_in_a_row(caller: httpx.AsyncClient) -> None:
    answer = await caller.post(GENERATIONS, json={**BODY, "n": 3, "seed": 2**63 - 3})

    assert [item["seed"] for item in answer.json()["data"]] == [2**63 - 3, 2**63 - 2, 2**63 - 1]


class TwoBuilds(SteppedStages):
    """Decodes by two builds in turn, as a roll-out does."""

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        file = await super().decode(latents, order)
        return replace(file, fingerprint=f"build-{order.provenance.seed % 2}")


@pytest.mark.parametrize(
    ("num_images", "of_each", "of_all"),
    [(1, ["build-0"], "build-0"), (2, ["build-0", "build-1"], None)],
)
async def test_each_picture_has_its_own_fingerprint(
    tiny_model: Path, tmp_path: Path, num_images: int, of_each: list[str], of_all: str | None
) -> None:
    stages = TwoBuilds()
    stages.allow(100)
    app = build_api_over(local_config(tiny_model, tmp_path), stages)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        answer = await client.post(GENERATIONS, json={**BODY, "seed": 0, "n": num_images})

    assert [item["fingerprint"] for item in answer.json()["data"]] == of_each
    assert answer.json().get("fingerprint") == of_all


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/images", "/v1/models/another", f"{GENERATIONS}/", "/v1/models/"]
)
async def test_an_unknown_address_is_answered_in_the_same_form(
    caller: httpx.AsyncClient, path: str
) -> None:
    answer = await caller.get(path)

    assert answer.status_code == 404
    assert _error(answer)["code"] == "not_found"


async def test_a_model_is_described_by_its_name(caller: httpx.AsyncClient) -> None:
    [listed] = (await caller.get("/v1/models")).json()["data"]

    assert (await caller.get(f"/v1/models/{listed['id']}")).json() == listed


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/nowhere"])
async def test_head_is_get_without_the_body(caller: httpx.AsyncClient, path: str) -> None:
    got, head = await caller.get(path), await caller.head(path)

    assert head.status_code == got.status_code
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.content == b""


@pytest.mark.parametrize("path", [GENERATIONS, "/v1/images/jobs"])
async def test_pictures_and_jobs_have_no_head(caller: httpx.AsyncClient, path: str) -> None:
    assert (await caller.head(path)).status_code == 405


async def test_another_method_is_answered_in_the_same_form(caller: httpx.AsyncClient) -> None:
    answer = await caller.get(GENERATIONS)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert _error(answer)["code"] == "method_not_allowed"
    assert _error(answer)["message"] == "method must be one of POST, got GET"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/images/jobs", "GET, POST"),
        ("/v1/images/jobs/job-0", "DELETE, GET"),
        ("/v1/models", "GET, HEAD"),
    ],
)
async def test_all_methods_of_a_path_are_told(
    caller: httpx.AsyncClient, path: str, allowed: str
) -> None:
    answer = await caller.put(path)

    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed


async def test_a_path_that_is_not_served_is_named(caller: httpx.AsyncClient) -> None:
    answer = await caller.post("/v1/images/edits", json={"prompt": "a red circle"})

    assert answer.status_code == 404
    message = "path must be one that /docs lists, got '/v1/images/edits'"
    assert _error(answer)["message"] == message


async def test_an_empty_size_is_refused(caller: httpx.AsyncClient) -> None:
    answer = await caller.post(GENERATIONS, json={"prompt": "a red circle", "size": ""})

    assert answer.status_code == 400
    message = "size must be 'auto' or WIDTHxHEIGHT in pixels, got ''"
    assert _error(answer)["message"] == message


async def test_a_lone_surrogate_in_the_name_of_a_field_is_told(caller: httpx.AsyncClient) -> None:
    answer = await caller.post(
        GENERATIONS,
        content=b'{"prompt":"a red circle","\\ud800":1}',
        headers={"content-type": "application/json"},
    )

    assert answer.status_code == 400
    assert _error(answer)["message"] == "body must have names of fields without lone surrogates"


@pytest.mark.parametrize(
    "key",
    ["x", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "images//0.png", "images/%00.png"],
)
async def test_a_file_is_read_only_at_a_signed_url(caller: httpx.AsyncClient, key: str) -> None:
    answer = await caller.get(f"/v1/files/{key}?expires=99999999999&signature={'0' * 64}")

    assert answer.status_code in {403, 404}


@pytest.mark.parametrize("name", ["x-request-timeout-seconds", "x-request-disconnect-disabled"])
async def test_headers_that_override_serve_are_refused(
    caller: httpx.AsyncClient, name: str
) -> None:
    answer = await caller.post(GENERATIONS, json=BODY, headers={name: "1"})

    assert answer.status_code == 400
    assert _error(answer)["param"] == name


@pytest.mark.parametrize("request_id", ["", " ", "a b", "a\tb", "x" * 129, "é"])
async def test_a_request_id_that_could_break_a_log_is_refused(
    caller: httpx.AsyncClient, request_id: str
) -> None:
    answer = await caller.get("/v1/models", headers=[(b"x-request-id", request_id.encode())])

    assert answer.status_code == 400
    assert _error(answer)["param"] == "x-request-id"
    [echoed] = answer.headers.get_list("x-request-id")
    assert re.fullmatch("req-[0-9a-f]{24}", echoed)


@pytest.mark.parametrize("error", ApiError.__subclasses__())
def test_every_error_survives_a_process_boundary(error: type[ApiError]) -> None:
    original = error("a message", "field", 5)

    again = pickle.loads(pickle.dumps(original))

    assert again.to_body() == original.to_body()
    assert again.to_headers() == original.to_headers()
    assert again.retry_after_s == 5
