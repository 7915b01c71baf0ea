"""What a hostile caller gets from a running service, which stays well and tells nothing."""

import asyncio
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import yaml
from caller_api import write_keys
from service import Service, run_service

pytestmark = [pytest.mark.serve, pytest.mark.slow]

GENERATIONS = "/v1/images/generations"
SMALL = {"prompt": "x", "size": "64x64", "num_inference_steps": 1}
BODY_TIMEOUT_S = 2.0
MAX_PLACES = 16
NUM_IDLE = 10_000
MARK = "quokka-in-a-teacup-7301"


@dataclass(frozen=True)
class Target:
    """A service that asks for keys, and one that opens it."""

    service: Service
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def address(self) -> tuple[str, int]:
        url = urlsplit(self.service.url)
        return str(url.hostname), int(url.port or 0)

    def post(self, **options: object) -> httpx.Response:
        headers = {**self.headers, "content-type": "application/json"}
        return httpx.post(
            f"{self.service.url}{GENERATIONS}",
            timeout=60,
            **{"headers": headers, **options},  # type: ignore[arg-type]
        )

    def assert_well(self) -> None:
        """It draws, and promptly."""
        answer = httpx.post(
            f"{self.service.url}{GENERATIONS}", json=SMALL, headers=self.headers, timeout=30
        )
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def target(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("abuse")
    with ExitStack() as stack:
        stack.enter_context(_many_files())
        keys = write_keys(folder / "keys.yaml", alice={})
        config = {
            "model": {"source": str(tiny_model)},
            "store": {"path": str(folder / "images")},
            "keys": {"file": str(folder / "keys.yaml")},
            "limits": {"body_timeout_s": BODY_TIMEOUT_S},
            "router": {"max_ongoing_requests": MAX_PLACES},
        }
        (folder / "zimage.yaml").write_text(yaml.safe_dump(config))
        service = stack.enter_context(run_service(folder, "--config", str(folder / "zimage.yaml")))
        yield Target(service, keys["alice"])


@contextmanager
def _many_files() -> Iterator[None]:
    """Let this process, and what it starts, open as many files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def send_raw(target: Target, request: bytes, *, within_s: float = 30.0) -> bytes:
    """Send bytes as they are, and return what comes until the other side closes or falls silent."""
    with socket.create_connection(target.address, timeout=within_s) as connection:
        connection.sendall(request)
        return connection.recv(65_536)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"[" * 100_000, "body must be JSON"),
        (b'{"prompt":' * 50_000, "body must be JSON"),
        (b'{"prompt":' + b"[" * 500 + b"]" * 500 + b"}", "prompt"),
        (b'{"prompt":"x","seed":' + b"9" * 10_000 + b"}", "body must be JSON"),
        (b'{"prompt":"x","seed":1e400}', "seed"),
        (b'{"prompt":"x","guidance_scale":NaN}', "guidance_scale"),
        (b'{"prompt":"\\ud800"}', "prompt"),
        (b'{"prompt":"x","\\ud800":1}', "body"),
        (b'{"prompt":"x","size":"\\ud800"}', "size"),
        (b'{"prompt":"x","model":"\\ud800"}', "model"),
        (b'{"prompt":"\xff\xfe"}', "body must be JSON"),
        (b"\x00" * 1000, "body must be JSON"),
        (b'{"prompt":"x","size":"' + b"1" * 100_000 + b'x16"}', "size"),
        (b"", "body"),
    ],
    ids=[
        "deep-lists",
        "deep-objects",
        "nested-prompt",
        "long-number",
        "infinite-seed",
        "not-a-number",
        "lone-surrogate",
        "surrogate-field",
        "surrogate-size",
        "surrogate-model",
        "not-utf-8",
        "nulls",
        "long-size",
        "empty",
    ],
)
def test_a_hostile_body_is_a_callers_mistake(target: Target, content: bytes, rule: str) -> None:
    answer = target.post(content=content)

    assert answer.status_code in (400, 404), answer.text
    assert rule in answer.json()["error"]["message"]
    assert len(answer.content) < 1000


def test_a_body_that_is_declared_too_large_is_not_read(target: Target) -> None:
    head = (
        f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {target.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {2**40}\r\n\r\n"
    )

    assert b" 413 " in send_raw(target, head.encode()).split(b"\r\n")[0]


def test_a_chunked_body_that_grows_too_large_is_cut(target: Target) -> None:
    answer = target.post(content=(b" " * 65_536 for _ in range(64)))

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_body_that_trickles_is_answered_and_gives_its_place_back(target: Target) -> None:
    head = (
        f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {target.key}\r\n"
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    )
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(target.address, timeout=60))
            for _ in range(MAX_PLACES)
        ]
        for connection in slow:
            connection.sendall(head.encode())
        answers = [connection.recv(4096).split(b"\r\n")[0] for connection in slow]

        assert [b" 408 " in answer for answer in answers] == [True] * MAX_PLACES
        target.assert_well()


def test_heads_that_never_end_hold_nobody_up(target: Target) -> None:
    with ExitStack() as stack:
        for _ in range(500):
            connection = stack.enter_context(socket.create_connection(target.address))
            connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nx-slow: ")

        target.assert_well()


@asynccontextmanager
async def _idle(target: Target, count: int) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for _ in range(count):
            _, writer = await asyncio.open_connection(*target.address)
            stack.callback(writer.close)
        yield


async def test_ten_thousand_idle_connections_hold_nobody_up(target: Target) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * NUM_IDLE:
        pytest.skip("the system lets a process open too few files")
    async with _idle(target, NUM_IDLE):
        started = time.monotonic()
        await asyncio.to_thread(target.assert_well)
        assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "headers",
    [[(f"x-{index}", "y") for index in range(500)], [("x-long", "y" * 50_000)]],
    ids=["many", "long"],
)
def test_a_flood_of_headers_is_refused(target: Target, headers: list[tuple[str, str]]) -> None:
    answer = target.post(json=SMALL, headers=[*target.headers.items(), *headers])

    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/../../keys.yaml",
        "/v1/files/..%2f..%2fkeys.yaml",
        "/v1/files/%2e%2e/%2e%2e/keys.yaml",
        "/v1/files/images/..%5c..%5ckeys.yaml",
        "/v1/files//etc/passwd",
        "/v1/files/.secret",
        "/v1/files/images/x%00.png",
        "/v1/files/" + "a" * 5000,
        "/v1/files/%ff%fe",
    ],
)
def test_a_path_that_leaves_the_store_opens_nothing(target: Target, path: str) -> None:
    request = f"GET {path}?expires=99999999999&signature={'0' * 64} HTTP/1.1\r\nhost: x\r\n\r\n"

    status = send_raw(target, request.encode()).split(b"\r\n")[0]

    assert re.search(rb" (400|401|403|404) ", status), status


@pytest.mark.parametrize("path", ["/v1/images/generations/", "/V1/models", "/v1/./models", "//"])
def test_another_spelling_of_a_path_opens_nothing(target: Target, path: str) -> None:
    status = send_raw(target, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    assert b" 401 " in status.split(b"\r\n")[0]


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "é"])
def test_a_request_id_that_is_none_is_refused(target: Target, request_id: str) -> None:
    headers = {**target.headers, "x-request-id": request_id}
    answer = target.post(json=SMALL, headers=[(k, v.encode()) for k, v in headers.items()])

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-request-id"


def test_what_is_not_http_closes_only_its_own_connection(target: Target) -> None:
    assert b" 400 " in send_raw(target, b"\x16\x03\x01\x02\x00\x01\x00" * 100).split(b"\r\n")[0]
    target.assert_well()


def test_prompts_and_keys_are_in_no_log_and_in_no_error(target: Target) -> None:
    forged = f"zs-alice-{'5ec2e7' * 10}0000"
    bodies: list[dict[str, object]] = [
        {**SMALL, "prompt": MARK, "user": MARK},
        {**SMALL, "prompt": MARK * 30},
        {**SMALL, "prompt": MARK * 10_000},
        {**SMALL, "prompt": {MARK: MARK}},
        {**SMALL, "prompt": MARK, "size": "17x17"},
        {**SMALL, "prompt": MARK, "timeout_s": 0.001},
        {**SMALL, "prompt": MARK, "user": MARK * 20},
    ]
    answers = [target.post(json=body) for body in bodies]
    answers.append(target.post(json=SMALL, headers={"authorization": f"Bearer {forged}"}))
    answers.append(target.post(content=f'{{"prompt": "{MARK}'.encode()))

    assert [answer.status_code for answer in answers] == [200, *[400] * 4, 504, 400, 401, 400]
    assert not [answer.text for answer in answers if MARK in answer.text or "5ec2e7" in answer.text]
    logs = _read_logs(target.service)
    assert len(logs) > 5
    secrets = (MARK, target.key, forged)
    assert [file for file, text in logs.items() for secret in secrets if secret in text] == []


def _read_logs(service: Service) -> dict[str, str]:
    """Read the command's own output and every log of its Ray cluster."""
    processes = psutil.Process(service.process.pid).children(recursive=True)
    command_lines = " ".join(" ".join(process.cmdline()) for process in processes)
    folders = set(re.findall(r"/tmp/zimage-\w+", command_lines))
    files = [file for folder in folders for file in Path(folder).glob("session_*/logs/**/*")]
    return {
        str(file): file.read_text("utf-8", "replace")
        for file in (service.log, *files)
        if file.is_file() and not file.is_symlink()
    }
