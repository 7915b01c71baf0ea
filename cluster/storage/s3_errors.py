"""boto3's errors as the store's, in one place.

Texts name the bucket, the host and S3's error code. They never repeat what boto3 or the server
wrote, which may hold a key id or a signed URL; for the same reason the cause is not chained.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from cluster.errors import (
    ImageNotFoundError,
    StoreConfigurationError,
    StoreError,
    StoreUnavailableError,
)

_NOT_FOUND: Final = frozenset({"NoSuchKey", "404"})

_TRANSIENT: Final = frozenset(
    {
        "BadDigest",
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
        "TemporaryRedirect",
        "Throttling",
        "XAmzContentSHA256Mismatch",
    }
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

_REDIRECTS: Final = "the endpoint redirects, and must be the address that it redirects to"

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
    except RecursionError:
        # botocore looks for the bucket's region at every redirect.
        raise StoreConfigurationError(f"{tried}: {_REDIRECTS}") from None
    except RuntimeError:
        # botocore's word for a refresh that brought credentials which have expired too.
        raise StoreUnavailableError(f"{tried}: the credentials have expired") from None
    except (ResponseParserError, OSError, ValueError, TypeError, KeyError) as error:
        # Of what brings credentials, a file or a service, and of answers that are not S3's.
        raise StoreUnavailableError(f"{tried}: boto3 failed ({type(error).__name__})") from None


def check_stored(answer: Mapping[str, Any]) -> None:
    """Refuse an answer to an upload that S3 did not give: it names what was stored.

    Raises:
        StoreUnavailableError: If a proxy has answered in its place.
    """
    if not answer.get("ETag"):
        raise StoreUnavailableError("an upload's answer must be S3's, got one without an ETag")


def check_read(answer: Mapping[str, Any]) -> None:
    """Refuse a page in place of a file, which S3 would have named.

    Raises:
        StoreUnavailableError: If a proxy has answered in its place.
    """
    is_page = str(answer.get("ContentType", "")).startswith("text/html")
    if is_page and not answer.get("ETag"):
        raise StoreUnavailableError("a file must be S3's, got a page without an ETag")


def _from_answer(error: ClientError, tried: str) -> StoreError:
    """Read S3's own answer: a code for machines, and a status."""
    code = error.response.get("Error", {}).get("Code", "")
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    request_id = answer.get("RequestId", "")
    reason = _REASONS.get(code, _REDIRECTS if 300 <= status < 400 else "the store refused")
    text = f"{tried}: {reason} ({code or status}, request {request_id})"
    if code in _NOT_FOUND:
        return ImageNotFoundError(text)
    if code in _TRANSIENT or status in (408, 429) or (status >= 500 and status != 501):
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
    url = urlsplit(endpoint_url)
    # One with a / or ? ends the host's part early, and its own beginning reads as a host.
    if "@" in f"{url.path}{url.query}{url.fragment}":
        return "an endpoint whose password is not percent-encoded"
    return url.netloc.rpartition("@")[2]
