"""How a deployment calls another, and what a call that was broken off becomes."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.calls_config import MESSAGE_LIMIT, ByValue, CallsConfig, check_message_limit
from deployments.errors import OverloadedError, ReplicaLostError
from deployments.handles import HandleStages
from deployments.stages import Refusal
from deployments.text_encoder import TextEncoderDeployment
from pipeline.errors import InvalidRequestError
from pipeline.request import PromptEncoding


@dataclass
class Handle:
    """As much of Serve's handle as calling one method needs."""

    answer: Awaitable[Any] | None = None
    options_given: dict[str, Any] = field(default_factory=dict)

    def options(self, **options: Any) -> Self:
        self.options_given |= options
        return self

    @property
    def encode(self) -> Self:
        return self

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        assert self.answer is not None
        return self.answer


def stages_over(answer: Awaitable[Any]) -> HandleStages:
    handle: Any = Handle(answer)
    return HandleStages(handle, {}, handle, by_value="all")


async def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("by_value", "is_short_by_reference", "is_long_by_reference"),
    [("none", True, True), ("short", False, True), ("all", False, False)],
)
def test_what_goes_by_value(
    by_value: ByValue, is_short_by_reference: bool, is_long_by_reference: bool
) -> None:
    encoder, denoiser, decoder = Handle(), Handle(), Handle()
    handles: list[Any] = [encoder, denoiser, decoder]

    HandleStages(handles[0], {"pool": handles[1]}, handles[2], by_value=by_value)

    assert encoder.options_given["_by_reference"] is is_short_by_reference
    assert decoder.options_given["_by_reference"] is is_short_by_reference
    assert denoiser.options_given["_by_reference"] is is_long_by_reference


class RefusingEncoder:
    """Takes no prompt."""

    def encode(self, prompt: str) -> PromptEncoding:
        raise InvalidRequestError("prompt must have at most 512 tokens, got 799")


async def test_a_refusal_leaves_the_text_encoder_as_a_value_and_is_raised_by_its_caller() -> None:
    encoder = TextEncoderDeployment(RefusingEncoder)

    refusal = await encoder.encode("a red circle")

    assert refusal == Refusal("prompt must have at most 512 tokens, got 799")
    with pytest.raises(InvalidRequestError, match="at most 512 tokens, got 799"):
        await stages_over(encoder.encode("a red circle")).encode("a red circle")


async def test_a_call_that_its_replica_cancels_is_lost() -> None:
    with pytest.raises(ReplicaLostError):
        await stages_over(fail(asyncio.CancelledError())).encode("a red circle")


async def test_a_call_that_breaks_off_is_lost() -> None:
    broken = AioRpcError(StatusCode.CANCELLED, Metadata(), Metadata())

    with pytest.raises(ReplicaLostError):
        await stages_over(fail(broken)).encode("a red circle")


async def test_a_stage_without_a_replica_took_nothing_and_is_asked_later() -> None:
    unavailable = DeploymentUnavailableError(DeploymentID("TextEncoderDeployment", "app"))

    with pytest.raises(OverloadedError) as refused:
        await stages_over(fail(unavailable)).encode("a red circle")

    assert refused.value.retry_after_s


async def test_a_caller_that_gives_up_is_cancelled() -> None:
    call = asyncio.ensure_future(stages_over(asyncio.sleep(60)).encode("a red circle"))
    await asyncio.sleep(0)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("by_value", ["short", "all"])
def test_calls_by_value_need_the_limit_of_messages_raised(by_value: ByValue) -> None:
    check_message_limit(CallsConfig(by_value=by_value), MESSAGE_LIMIT)

    with pytest.raises(ValueError, match="with nothing"):
        check_message_limit(CallsConfig(by_value=by_value), {})


def test_calls_by_reference_need_no_limit() -> None:
    check_message_limit(CallsConfig(), {})
