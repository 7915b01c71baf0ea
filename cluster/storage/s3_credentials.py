"""How long a presigned URL can live: never longer than the credentials that sign it."""

from datetime import datetime

from botocore.credentials import Credentials, RefreshableCredentials

from cluster.errors import StoreUnavailableError


def read_expiry(credentials: Credentials) -> datetime | None:
    """Return when the credentials expire, refreshing them if it is time; None is never.

    A session token that was set by hand without `AWS_CREDENTIAL_EXPIRATION` does not say when it
    expires.
    """
    if not isinstance(credentials, RefreshableCredentials):
        return None
    credentials.get_frozen_credentials()
    # botocore has no public name for it: `refresh_needed` only compares with it.
    expiry: datetime | None = credentials._expiry_time  # type: ignore[attr-defined]
    return expiry


def cap_lifetime(lifetime_s: int, expiry: datetime | None, now: datetime) -> int:
    """Return the whole seconds that a URL signed `now` can live.

    Raises:
        StoreUnavailableError: If the credentials are left with less than a second.
    """
    if expiry is None:
        return lifetime_s
    left = int((expiry - now).total_seconds())
    if left < 1:
        raise StoreUnavailableError(f"the S3 credentials expired at {expiry:%Y-%m-%dT%H:%M:%S%z}")
    return min(lifetime_s, left)
