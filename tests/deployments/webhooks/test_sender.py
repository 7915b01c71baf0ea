"""Requests forged through the service do not leave it."""

import asyncio
import ipaddress
import os
import ssl

import pytest
import trustme
from webhook_receiver import run_receiver

from deployments.webhooks.sender import DeliveryError, Resolve, WebhookSender
from deployments.webhooks.targets import IPAddress, Target, TargetRules

OPEN = TargetRules(frozenset(), allow_http=True, allow_private_addresses=True)
CLOSED = TargetRules(frozenset(), allow_http=True)
LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Resolver:
    """Answers in turn; the last answer stays."""

    def __init__(self, *answers: list[IPAddress]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[IPAddress]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def send(
    target: Target,
    *,
    rules: TargetRules = OPEN,
    resolver: Resolve | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> None:
    sender = WebhookSender(rules, resolver or Resolver([LOOPBACK]), timeout_s=timeout_s, tls=tls)
    try:
        await sender.send(target, b"{}", headers or {})
    finally:
        await sender.close()


async def test_a_message_arrives_under_the_hosts_name() -> None:
    async with run_receiver() as receiver:
        target = Target("http", "hooks.example.com", receiver.port, "/a?b=c")
        await send(target, headers={"webhook-id": "msg-1"})

    [received] = receiver.received
    assert received.path == "/a?b=c"
    assert received.body == b"{}"
    assert received.headers["host"] == f"hooks.example.com:{receiver.port}"
    assert received.headers["webhook-id"] == "msg-1"
    assert received.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        [],
    ],
)
async def test_a_name_that_leads_inside_is_not_called(addresses: list[str]) -> None:
    resolved = [ipaddress.ip_address(address) for address in addresses]
    async with run_receiver() as receiver:
        target = Target("http", "hooks.example.com", receiver.port, "/")
        with pytest.raises(DeliveryError, match="address"):
            await send(target, rules=CLOSED, resolver=Resolver(resolved))

    assert receiver.received == []


async def test_a_name_is_resolved_once_so_it_cannot_change_after_the_check() -> None:
    resolver = Resolver([LOOPBACK], [ipaddress.ip_address("192.0.2.1")])
    async with run_receiver() as receiver:
        target = Target("http", "rebinding.example.com", receiver.port, "/")
        await send(target, resolver=resolver)

    assert resolver.asked == ["rebinding.example.com"]
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    async with (
        run_receiver() as inside,
        run_receiver(f"{status} Found\r\nlocation: http://127.0.0.1:{inside.port}/") as receiver,
    ):
        target = Target("http", "hooks.example.com", receiver.port, "/")
        with pytest.raises(DeliveryError, match=f"the answer was {status}"):
            await send(target)

    assert inside.received == []


@pytest.mark.parametrize(("answer", "is_final"), [("410 Gone", True), ("500 Oops", False)])
async def test_only_gone_is_final(answer: str, is_final: bool) -> None:
    async with run_receiver(answer) as receiver:
        target = Target("http", "hooks.example.com", receiver.port, "/")
        with pytest.raises(DeliveryError) as caught:
            await send(target)

    assert caught.value.is_final is is_final


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with run_receiver() as receiver:
        target = Target("http", "hooks.example.com", receiver.port, "/")
        await send(target)

    assert len(receiver.received) == 1


async def test_a_silent_receiver_is_given_up() -> None:
    was_left = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        was_left.set()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    async with server:
        port = int(server.sockets[0].getsockname()[1])
        with pytest.raises(DeliveryError, match=r"no answer within 0\.2 s") as caught:
            await send(Target("http", "hooks.example.com", port, "/"), timeout_s=0.2)
        assert caught.value.is_silence
        await asyncio.wait_for(was_left.wait(), 10.0)


async def test_a_closed_port_is_a_failed_delivery() -> None:
    async with run_receiver() as receiver:
        port = receiver.port
    with pytest.raises(DeliveryError, match="the connection failed: ConnectError"):
        await send(Target("http", "hooks.example.com", port, "/"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_the_certificate_is_checked_against_the_name(authority: trustme.CA) -> None:
    async with run_receiver(tls=server_tls(authority, "hooks.example.com")) as receiver:
        target = Target("https", "hooks.example.com", receiver.port, "/")
        await send(target, tls=client_tls(authority))

    assert len(receiver.received) == 1


async def test_a_certificate_of_another_name_is_refused(authority: trustme.CA) -> None:
    async with run_receiver(tls=server_tls(authority, "other.example.com")) as receiver:
        target = Target("https", "hooks.example.com", receiver.port, "/")
        with pytest.raises(DeliveryError, match="the connection failed"):
            await send(target, tls=client_tls(authority))

    assert receiver.received == []


async def test_a_receiver_that_wants_a_certificate_is_a_failed_delivery(
    authority: trustme.CA,
) -> None:
    tls = server_tls(authority, "hooks.example.com")
    tls.verify_mode = ssl.CERT_REQUIRED
    async with run_receiver(tls=tls) as receiver:
        target = Target("https", "hooks.example.com", receiver.port, "/")
        with pytest.raises(DeliveryError, match="the connection failed"):
            await send(target, tls=client_tls(authority))

    assert receiver.received == []


async def test_an_answer_in_the_clear_within_tls_is_a_failed_delivery(
    authority: trustme.CA,
) -> None:
    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        os.write(writer.get_extra_info("socket").fileno(), b"HTTP/1.1 400 Bad\r\n\r\nplain text")
        await reader.read()
        writer.close()

    tls = server_tls(authority, "hooks.example.com")
    server = await asyncio.start_server(garble, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = int(server.sockets[0].getsockname()[1])
        target = Target("https", "hooks.example.com", port, "/")
        with pytest.raises(DeliveryError, match="the connection failed"):
            await send(target, tls=client_tls(authority))


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
async def test_a_name_that_cannot_be_resolved_is_a_failed_delivery(error: Exception) -> None:
    async def fail(host: str, port: int) -> list[IPAddress]:
        raise error

    with pytest.raises(DeliveryError, match="the host has no address"):
        await send(Target("http", "hooks.example.com", 80, "/"), resolver=fail)
