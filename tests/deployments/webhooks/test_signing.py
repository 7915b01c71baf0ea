"""Signatures that the standard's own library verifies."""

import base64
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from deployments.webhooks.signing import sign_message

KEY = bytes(range(32))


def test_the_standards_library_verifies_a_message() -> None:
    body = '{"type":"job.succeeded","prompt":"图"}'
    headers = sign_message(KEY, "msg-1", int(time.time()), body.encode())

    verified = Webhook(f"whsec_{base64.b64encode(KEY).decode()}").verify(body, headers)
    assert verified["type"] == "job.succeeded"


@pytest.mark.parametrize(
    "change",
    [{"webhook-id": "msg-2"}, {"webhook-timestamp": str(int(time.time()) + 1)}],
)
def test_a_changed_message_is_not_verified(change: dict[str, str]) -> None:
    headers = sign_message(KEY, "msg-1", int(time.time()), b"{}")

    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(KEY).decode()).verify("{}", {**headers, **change})


def test_a_replayed_message_is_not_verified() -> None:
    headers = sign_message(KEY, "msg-1", int(time.time()) - 600, b"{}")

    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(KEY).decode()).verify("{}", headers)


def test_the_standards_own_example_comes_out() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = sign_message(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
