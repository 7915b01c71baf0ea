"""Signatures of Standard Webhooks 1.0 (standardwebhooks.com), symmetric: HMAC-SHA256."""

import base64
import hmac


def sign_message(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that go with a message.

    Args:
        key: The bytes of the secret, without `whsec_` and base64.
        message_id: The same at every try, so that a receiver may drop what it has.
        timestamp: Unix seconds of this try; receivers refuse old ones as replayed.
        body: Exactly as sent.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode("ascii")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
