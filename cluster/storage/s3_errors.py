"""boto3's errors as the store's, in one place.

Texts name the bucket, the host and S3's error code. They never repeat what boto3 or the server
wrote, which may hold a key id or a signed URL; for the same reason the cause is not chained.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError

from cluster.errors import (
    ImageNotFoundError,
    StoreConfigurationError,
    StoreError,
    StoreUnavailableError,
)

_NOT_FOUND: Final = frozenset({"NoSuchKey", "404"})

_TRANSIENT: Final = frozenset(
    {"BadDigest", "RequestTimeout", "SlowDown", "Throttling", "XAmzContentSHA256Mismatch"}
)
"""Codes that may pass although their status says that the caller was wrong."""

_REASONS: Final = {
    "NoSuchBucket": "the bucket does not exist",
    "InvalidAccessKeyId": "the credentials are unknown there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the session token is wrong",
    "AccessDenied": "the credentials do not allow it",
    "403": "the credentials do not allow it",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "PermanentRedirect": "the bucket is in another region",
    "AuthorizationHeaderMalformed": "the bucket is in another region",
    "NotImplemented": "the store does not know an option of the request",
}

_UNREACHABLE: Final = (
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    botocore_errors.ResponseStreamingError,
    botocore_errors.IncompleteReadError,
    botocore_errors.FlexibleChecksumError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.MetadataRetrievalError,
)


@contextmanager
def s3_errors(tried: str) -> Iterator[None]:
    """Turn an error of boto3 into a `StoreError` that says what was tried."""
    try:
        yield
    except ClientError as error:
        raise _from_answer(error, tried) from None
    except BotoCoreError as error:
        raise _from_botocore(error, tried) from None
    except RuntimeError:
        # botocore's word for a refresh that brought credentials which have expired too.
        raise StoreUnavailableError(f"{tried}: the credentials have expired") from None


def _from_answer(error: ClientError, tried: str) -> StoreError:
    """Read S3's own answer: a code for machines, and a status."""
    code = error.response.get("Error", {}).get("Code", "")
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    request_id = answer.get("RequestId", "")
    text = f"{tried}: {_REASONS.get(code, 'the store refused')} ({code}, request {request_id})"
    if code in _NOT_FOUND:
        return ImageNotFoundError(text)
    if code in _TRANSIENT or status >= 500 or status == 429:
        return StoreUnavailableError(text)
    return StoreConfigurationError(text)


def _from_botocore(error: BotoCoreError, tried: str) -> StoreError:
    """Read an error that arose on this side of the connection."""
    name = type(error).__name__
    if isinstance(error, _UNREACHABLE):
        return StoreUnavailableError(f"{tried}: no answer ({name})")
    if isinstance(error, botocore_errors.NoCredentialsError):
        return StoreConfigurationError(f"{tried}: boto3 finds no credentials")
    return StoreConfigurationError(f"{tried}: boto3 refused ({name})")


def name_host(endpoint_url: str) -> str:
    """Name host and port alone: a URL may hold a password."""
    return urlsplit(endpoint_url).netloc.rpartition("@")[2]
