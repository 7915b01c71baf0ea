"""The operator's settings of telemetry and usage records.

Exporters of traces and metrics are set by OpenTelemetry's own `OTEL_` variables.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from deployments.bucket_config import BucketConfig
from deployments.config_section import Section


class TelemetryConfig(Section):
    """Traces, metrics and logs."""

    step_detail_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Part of the sampled traces that get an event a step and links from forwards.",
    )
    ray_metrics: bool = Field(
        default=True, description="Whether Ray's Prometheus exporter gets the service's metrics."
    )
    log_encoding: Literal["JSON", "TEXT"] = Field(
        default="JSON", description="Form of a log line; JSON has request and trace ids."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is written; one line a call at `INFO`."
    )


class UsageFileConfig(Section):
    """Closed records as lines of hourly files."""

    kind: Literal["file"] = "file"
    folder: Path = Field(
        default=Path("zimage-usage/exported"), description="Where the hourly files are written."
    )


class UsageStdoutConfig(Section):
    """Closed records as lines on standard output, for a collector of logs."""

    kind: Literal["stdout"]


class UsageS3Config(BucketConfig):
    """Closed records as hourly objects."""

    kind: Literal["s3"]
    prefix: str = Field(default="usage", description="First part of every key.")
    checksum: Literal["when_supported", "when_required"] = Field(
        default="when_required",
        description="`when_required` sends `Content-MD5` alone, which older stores know too.",
    )


UsageExportConfig = Annotated[
    UsageFileConfig | UsageStdoutConfig | UsageS3Config, Field(discriminator="kind")
]


class PriceConfig(Section):
    """What work costs a caller."""

    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$", description="ISO 4217.")
    per_cost_unit: float = Field(
        default=0.0, ge=0, description="Price of one cost unit: one forward at 512x512."
    )
    per_image: float = Field(default=0.0, ge=0, description="Price of one picture, added to it.")


class UsageConfig(Section):
    """One record a call, journalled at acceptance and closed at its end."""

    enabled: bool = Field(default=False, description="Whether records are kept.")
    journal: Path = Field(
        default=Path("zimage-usage/journal"),
        description="A folder on a disk that outlives the router's process.",
    )
    fsync: Literal["accepted", "interval"] = Field(
        default="interval",
        description="`interval` survives a killed process and may lose `export_period_s` of "
        "records when the machine dies; `accepted` waits for the disk before work begins.",
    )
    export_period_s: float = Field(
        default=10.0, gt=0, description="Seconds between exports, and between looks for the dead."
    )
    hmac_key_file: Path | None = Field(
        default=None,
        description="Secret of the input's hash, at least 16 bytes; made beside the journal "
        "if unset.",
    )
    export: UsageExportConfig = UsageFileConfig()
    price: PriceConfig = PriceConfig()

    @model_validator(mode="before")
    @classmethod
    def _export_is_a_file_unless_said(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("export"), dict):
            return {**values, "export": {"kind": "file", **values["export"]}}
        return values
