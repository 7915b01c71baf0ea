"""Sends one webhook to an address that was checked, and to no other."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import httpx

from deployments.webhooks.targets import IPAddress, Target, TargetRules, is_public

Resolve = Callable[[str, int], Awaitable[list[IPAddress]]]
_MAX_CONNECTIONS: Final = 32


class DeliveryError(Exception):
    """A message did not arrive; says why, without the URL."""

    def __init__(self, message: str, *, is_final: bool = False, is_silence: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final
        """Whether the receiver asked for no more."""
        self.is_silence = is_silence
        """Whether the receiver took all its time and gave no answer."""


class WebhookSender:
    """Posts to checked addresses. No redirect is followed, and no proxy of the environment used.

    The name is resolved once a try; the connection goes to the address that was checked, while
    the certificate is still checked against the name.
    """

    def __init__(
        self,
        rules: TargetRules,
        resolve: Resolve,
        *,
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            timeout=timeout_s,
            verify=tls or ssl.create_default_context(),
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=0),
        )

    async def send(self, target: Target, body: bytes, headers: dict[str, str]) -> None:
        """Deliver a message.

        Raises:
            DeliveryError: If the target may not be called, or does not say that it has it.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._choose_address(target)
                status = await self._post(target, address, body, headers)
        except (TimeoutError, httpx.TimeoutException) as exc:
            message = f"no answer within {self._timeout_s:g} s"
            raise DeliveryError(message, is_silence=True) from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as exc:
            # What TLS says after the handshake comes as the `ssl.SSLError` that it is.
            raise DeliveryError(f"the connection failed: {type(exc).__name__}") from exc
        if not 200 <= status < 300:
            raise DeliveryError(f"the answer was {status}", is_final=status == 410)

    async def close(self) -> None:
        """Let connections go."""
        await self._client.aclose()

    async def _choose_address(self, target: Target) -> IPAddress:
        try:
            addresses = await self._resolve(target.host, target.port)
        except TimeoutError:
            raise
        except (OSError, UnicodeError) as exc:
            raise DeliveryError("the host has no address") from exc
        if not addresses:
            raise DeliveryError("the host has no address")
        if not self._rules.allow_private_addresses and not all(map(is_public, addresses)):
            raise DeliveryError("the host must have public addresses only")
        return addresses[0]

    async def _post(
        self, target: Target, address: IPAddress, body: bytes, headers: dict[str, str]
    ) -> int:
        host = f"[{address}]" if address.version == 6 else str(address)
        request = self._client.build_request(
            "POST",
            f"{target.scheme}://{host}:{target.port}{target.path}",
            content=body,
            headers={**headers, "host": target.host_header, "content-type": "application/json"},
            extensions={"sni_hostname": target.host},
        )
        answer = await self._client.send(request, stream=True)
        # The answer's body is never read: it may be endless, and says nothing.
        await answer.aclose()
        return answer.status_code
