"""What can go wrong underneath the service.

ClusterError
├── StoreError
│   ├── StoreUnavailableError     the store did not do it after its retries (HTTP 503)
│   ├── StoreConfigurationError   the operator must change something: bucket, credentials, region
│   └── ImageNotFoundError        the store has no image under the key (HTTP 404)
├── UrlError                      a signed URL of the folder store is refused (HTTP 403)
│   ├── UrlExpiredError           it was right once
│   └── UrlSignatureError         it was not made by this store, or was changed
├── KeyFormatError                a key, or a part of one, has characters that keys do not have
├── PlacementError                no card or node can hold what the configuration asks for
├── CapacityError                 a rate or a size is asked of hardware that does not have it
├── TelemetryError                telemetry's own settings, or a usage file, break a rule
├── JobNotFoundError                no job has the id (HTTP 404)
├── JobFinishedError                the job has succeeded or failed, and cannot change (HTTP 409)
├── JobFormatError                  a job was written by another version of the service
├── LeaseLostError                  another process has what the caller had
├── PayloadsFullError               payloads take as many bytes as they may (HTTP 503)
└── RecordStoreError
    ├── RecordStoreUnavailableError     jobs cannot be read or written now (HTTP 503)
    └── RecordStoreConfigurationError   the operator must change something
"""


class ClusterError(Exception):
    """Anything that `cluster` raises on purpose. Takes one message, so that it can be pickled."""


class StoreError(ClusterError):
    """The store did not do what it was asked for."""


class StoreUnavailableError(StoreError):
    """The store did not do it after its retries; it may do it later."""


class StoreConfigurationError(StoreError):
    """The operator must change something: a bucket, credentials, a region, an option."""


class ImageNotFoundError(StoreError):
    """The store has no image under the key."""


class UrlError(ClusterError):
    """A signed URL of the folder store is refused."""


class UrlExpiredError(UrlError):
    """The URL was right once."""


class UrlSignatureError(UrlError):
    """The URL was not made by this store, or was changed."""


class KeyFormatError(ClusterError):
    """A key, or a part of one, has characters that keys do not have."""


class PlacementError(ClusterError):
    """No card or node can hold what the configuration asks for."""


class CapacityError(ClusterError):
    """A rate or a size is asked of hardware that does not have it."""


class RecordStoreError(ClusterError):
    """The store of jobs did not do what it was asked for."""


class RecordStoreUnavailableError(RecordStoreError):
    """The store of jobs cannot be reached; it may be later."""


class RecordStoreConfigurationError(RecordStoreError):
    """The operator must change something: a URL, a password, how Redis keeps its data."""


class JobNotFoundError(ClusterError):
    """No job has the id."""


class JobFinishedError(ClusterError):
    """The job has succeeded or failed, and cannot change."""


class JobFormatError(ClusterError):
    """A job was written by another version of the service, and cannot be read by this one."""


class LeaseLostError(ClusterError):
    """Another process has what the caller had, or its owner has cancelled it."""


class PayloadsFullError(ClusterError):
    """What waits in the store takes as many bytes as it may; nothing was written."""


class TelemetryError(ClusterError):
    """A setting of telemetry, or a line of a usage file, breaks a rule."""
