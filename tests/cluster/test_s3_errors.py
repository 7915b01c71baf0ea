"""What boto3 raises, turned into the store's errors. Real servers are in `tests/storage`."""

from datetime import UTC, datetime, timedelta

import pytest
from botocore import exceptions as botocore_errors
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from cluster.errors import (
    ImageNotFoundError,
    StoreConfigurationError,
    StoreError,
    StoreUnavailableError,
)
from cluster.storage import S3StoreOptions
from cluster.storage.s3_credentials import cap_lifetime
from cluster.storage.s3_errors import name_host, s3_errors

NOW = datetime(2026, 1, 9, 12, tzinfo=UTC)


def answer(code: str, status: int) -> ClientError:
    body = {
        "Error": {"Code": code, "Message": "key AKIASECRET is bad"},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r1"},
    }
    return ClientError(body, "PutObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answer("NoSuchKey", 404), ImageNotFoundError),
        (answer("NoSuchBucket", 404), StoreConfigurationError),
        (answer("AccessDenied", 403), StoreConfigurationError),
        (answer("ExpiredToken", 400), StoreConfigurationError),
        (answer("PermanentRedirect", 301), StoreConfigurationError),
        (answer("", 400), StoreConfigurationError),
        (answer("SlowDown", 503), StoreUnavailableError),
        (answer("InternalError", 500), StoreUnavailableError),
        (answer("TooManyRequests", 429), StoreUnavailableError),
        (answer("RequestTimeout", 400), StoreUnavailableError),
        (answer("BadDigest", 400), StoreUnavailableError),
        (botocore_errors.NoCredentialsError(), StoreConfigurationError),
        (botocore_errors.ProfileNotFound(profile="x"), StoreConfigurationError),
        (botocore_errors.EndpointConnectionError(endpoint_url="u"), StoreUnavailableError),
        (botocore_errors.ReadTimeoutError(endpoint_url="u"), StoreUnavailableError),
        (botocore_errors.ConnectionClosedError(endpoint_url="u"), StoreUnavailableError),
        (
            botocore_errors.CredentialRetrievalError(provider="p", error_msg="e"),
            StoreUnavailableError,
        ),
        (RuntimeError("refreshed credentials are still expired"), StoreUnavailableError),
        (RecursionError("maximum recursion depth exceeded"), StoreConfigurationError),
        (FileNotFoundError(2, "no token file"), StoreUnavailableError),
        (ResponseParserError("unable to parse <html>"), StoreUnavailableError),
        (TypeError("can't subtract offset-naive datetimes"), StoreUnavailableError),
        (answer("OperationAborted", 409), StoreUnavailableError),
        (answer("", 408), StoreUnavailableError),
        (answer("NotImplemented", 501), StoreConfigurationError),
    ],
    ids=repr,
)
def test_errors_say_whether_waiting_helps(error: Exception, expected: type[StoreError]) -> None:
    with pytest.raises(expected, match="cannot write") as raised, s3_errors("cannot write"):
        raise error
    assert type(raised.value) is expected


def test_an_answer_is_told_by_its_code_and_not_in_the_servers_words() -> None:
    with pytest.raises(StoreConfigurationError) as raised, s3_errors("cannot write a"):
        raise answer("InvalidAccessKeyId", 403)
    reason = "the credentials are unknown there (InvalidAccessKeyId, request r1)"
    assert str(raised.value) == f"cannot write a: {reason}"
    assert raised.value.__suppress_context__


def test_a_host_is_named_without_its_password() -> None:
    assert name_host("https://user:secret@store.example:9000/path") == "store.example:9000"
    assert "secret" not in name_host("https://user:secret/9@store.example:9000")


def test_a_url_lives_as_long_as_was_asked_for() -> None:
    assert cap_lifetime(3600, None, NOW) == 3600
    assert cap_lifetime(3600, NOW + timedelta(hours=2), NOW) == 3600


def test_a_url_never_outlives_its_credentials() -> None:
    assert cap_lifetime(3600, NOW + timedelta(seconds=90.7), NOW) == 90


def test_credentials_at_their_end_sign_nothing() -> None:
    with pytest.raises(StoreUnavailableError, match="expired at 2026-01-09T12:00:00"):
        cap_lifetime(3600, NOW, NOW)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"bucket": ""}, "bucket must not be empty"),
        ({"kms_key_id": "k"}, "kms_key_id must go with server_side_encryption aws:kms, got None"),
        ({"max_attempts": 0}, "max_attempts must be positive, got 0"),
        ({"read_timeout_s": -1.0}, "read_timeout_s must be positive, got -1.0"),
    ],
)
def test_options_that_cannot_work_are_refused(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(StoreConfigurationError, match=reason):
        S3StoreOptions(**{"bucket": "b", **arguments})  # type: ignore[arg-type]


def test_encryption_is_asked_for_as_s3_spells_it() -> None:
    options = S3StoreOptions("b", server_side_encryption="aws:kms", kms_key_id="k")
    assert options.to_encryption() == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"}
    assert S3StoreOptions("b").to_encryption() == {}
