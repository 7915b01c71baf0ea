"""A caller of a running service: follows one picture by its events, and comes back when told to."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx

from deployments.http_api import GENERATIONS

_TRY_AGAIN: Final = frozenset({429, 503})
_CONNECT_TIMEOUT_S: Final = 10.0
_SILENCE_TIMEOUT_S: Final = 120.0
"""A stream sends a heartbeat far more often."""


class ClientError(Exception):
    """The service refused, failed, or could not be reached. Takes one message."""


class RefusedError(Exception):
    """An answer that is no picture."""

    def __init__(self, status: int, message: str, retry_after_s: float | None) -> None:
        super().__init__(status, message, retry_after_s)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def may_try_again(self) -> bool:
        """Whether the service itself says when to come back."""
        return self.status in _TRY_AGAIN and self.retry_after_s is not None


class ImagesClient:
    """Asks one service for pictures."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        max_wait_s: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
        trust_env: bool = True,
    ) -> None:
        """Ask the service at `url`; `trust_env` obeys the environment's proxies."""
        self._url = to_service_url(url)
        self._headers = to_headers(key)
        self._max_wait_s = max_wait_s
        self._sleep = sleep
        self._trust_env = trust_env

    def draw(self, body: dict[str, Any], on_step: Callable[[int, int], None]) -> bytes:
        """Draw one picture, telling `on_step` the steps done and those in all.

        A 429 or 503 is tried again after the server's `Retry-After`, as long as all waits together
        stay within `max_wait_s`.

        Raises:
            ClientError: If the service cannot be reached, refuses, or stays full.
        """
        waited_s = 0.0
        while True:
            try:
                return self._draw_once(body, on_step)
            except RefusedError as exc:
                wait_s = exc.retry_after_s or 0.0
                if not exc.may_try_again or waited_s + wait_s > self._max_wait_s:
                    raise ClientError(f"the service refused: {exc.message}") from exc
            except httpx.InvalidURL as exc:
                raise ClientError(f"a service's URL must be valid, got {self._url}: {exc}") from exc
            except httpx.HTTPError as exc:
                raise ClientError(f"a service must answer at {self._url}, got {exc!r}") from exc
            waited_s += wait_s
            self._sleep(wait_s)

    def _draw_once(self, body: dict[str, Any], on_step: Callable[[int, int], None]) -> bytes:
        timeout = httpx.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        streamed = {**body, "stream": True, "progress_events": True}
        address = f"{self._url}{GENERATIONS}"
        with httpx.stream(
            "POST",
            address,
            json=streamed,
            headers=self._headers,
            timeout=timeout,
            trust_env=self._trust_env,
        ) as answer:
            if answer.is_error:
                answer.read()
                raise to_refusal(answer)
            for event in read_events(answer.iter_lines()):
                if "error" in event:
                    raise RefusedError(
                        event["status"], event["error"]["message"], event["retry_after_s"]
                    )
                if event["type"] == "image_generation.progress":
                    on_step(event["step"], event["num_inference_steps"])
                if event["type"] == "image_generation.completed":
                    return base64.b64decode(event["b64_json"])
        raise ClientError("the stream must end in a picture, got none")


def to_service_url(url: str) -> str:
    """Return where a service is; of a base URL as OpenAI's SDK has it, what precedes `/v1`."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def to_headers(key: str | None) -> dict[str, str]:
    """Return the headers by which a caller shows its key, if it has one."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def read_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Read the data of server-sent events, each of which is one line here."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def to_refusal(answer: httpx.Response) -> RefusedError:
    """Read an answer that is an error, whoever it is from."""
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"status {answer.status_code}"
    retry_after = answer.headers.get("retry-after", "")
    retry_after_s = float(retry_after) if retry_after.isdecimal() else None
    return RefusedError(answer.status_code, message, retry_after_s)
