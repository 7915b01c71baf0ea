"""The words of telemetry: names of spans, attributes and metrics, each written here and only here.

Metrics keep their dots in OpenTelemetry; Ray's exporter writes `zimage.requests` as
`ray_zimage_requests_total`. Labels have few values each: no ids, no sizes, no prompts. Ray guesses
the sum of a histogram from the middles of its buckets, so what is summed has a counter of its own.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SPAN_GENERATE: Final = "zimage.generate"
SPAN_ENCODE: Final = "zimage.encode"
SPAN_DENOISE: Final = "zimage.denoise"
SPAN_TILE: Final = "zimage.tile"
"""One tile of one step of a tiled picture, in its replica; sampled as steps are."""
SPAN_DECODE: Final = "zimage.decode"
SPAN_STORE: Final = "zimage.store"
SPAN_FORWARD: Final = "zimage.forward"
"""One batched forward; a root that links to the `zimage.denoise` spans of its requests."""

EVENT_STEP: Final = "zimage.step"

ATTR_REQUEST_ID: Final = "zimage.request_id"
ATTR_IMAGES_ID: Final = "zimage.images_id"
ATTR_MODEL: Final = "gen_ai.request.model"
ATTR_MODEL_REVISION: Final = "zimage.model_revision"
ATTR_SIZE: Final = "zimage.size"
ATTR_STEPS: Final = "zimage.num_inference_steps"
ATTR_STEP: Final = "zimage.step"
ATTR_NUM_IMAGES: Final = "zimage.num_images"
ATTR_PRIORITY: Final = "zimage.priority"
ATTR_PATH: Final = "zimage.path"
ATTR_POOL: Final = "zimage.pool"
ATTR_REPLICA: Final = "zimage.replica"
ATTR_ACCELERATOR: Final = "zimage.accelerator"
ATTR_COST_UNITS: Final = "zimage.cost_units"
ATTR_QUEUE_S: Final = "zimage.queue_s"
ATTR_RUN_S: Final = "zimage.run_s"
ATTR_SHARE_S: Final = "zimage.share_s"
"""Seconds of the device, the shared part of batched forwards apportioned by cost."""
ATTR_BATCH_SIZE: Final = "zimage.batch_size"
ATTR_PEAK_MEMORY: Final = "zimage.peak_memory_bytes"
ATTR_OUTCOME: Final = "zimage.outcome"
ATTR_ROUTING_REASON: Final = "zimage.routing_reason"
ATTR_ESTIMATE_S: Final = "zimage.estimate_s"
ATTR_KEY: Final = "zimage.key"
ATTR_NUM_BYTES: Final = "zimage.num_bytes"


class Outcome(StrEnum):
    """How a request or a stage ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    """The caller must ask otherwise, or later: no defect."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """The router died with it."""


class MetricKind(StrEnum):
    """What an instrument does with a value."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One instrument."""

    name: str
    kind: MetricKind
    unit: str
    """UCUM, as OpenTelemetry has it."""
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""
    known: tuple[tuple[str, ...], ...] = ()
    """All values of each label, of a counter that Ray is to show before its first event."""


_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_COUNTS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_RATIOS: Final = (0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2, 3, 5)

REQUESTS: Final = Metric(
    "zimage.requests",
    MetricKind.COUNTER,
    "{request}",
    "Calls that ended, by how; `error` is the code of the answer, empty for a success.",
    ("outcome", "error", "path", "priority"),
)
REQUEST_DURATION: Final = Metric(
    "zimage.request.duration",
    MetricKind.HISTOGRAM,
    "s",
    "From acceptance to the last byte stored, of calls that succeeded.",
    ("path", "priority"),
    _SECONDS,
)
COST_UNITS: Final = Metric(
    "zimage.cost_units",
    MetricKind.COUNTER,
    "{unit}",
    "Work of calls that succeeded; 1 is one forward at 512x512.",
    ("pool", "path"),
)
STAGE_DURATION: Final = Metric(
    "zimage.stage.duration",
    MetricKind.HISTOGRAM,
    "s",
    "Own time of encode, queue, denoise, decode, file and store, a picture.",
    ("stage", "path"),
    _SECONDS,
)
STAGE_BUSY: Final = Metric(
    "zimage.stage.busy",
    MetricKind.COUNTER,
    "s",
    "Sum of what `zimage.stage.duration` observes.",
    ("stage", "path"),
)
FIRST_PREVIEW: Final = Metric(
    "zimage.first_preview.duration",
    MetricKind.HISTOGRAM,
    "s",
    "From acceptance to the first preview of a streamed call.",
    ("path",),
    _SECONDS,
)
DEADLINES: Final = Metric(
    "zimage.deadlines",
    MetricKind.COUNTER,
    "{request}",
    "Accepted calls by whether their deadline was met.",
    ("result", "priority"),
    known=(("met", "missed", "failed"), ("interactive", "batch")),
)
ESTIMATE_RATIO: Final = Metric(
    "zimage.estimate.ratio",
    MetricKind.HISTOGRAM,
    "1",
    "Time that a call took over the router's estimate.",
    ("pool",),
    _RATIOS,
)
ROUTING_DECISIONS: Final = Metric(
    "zimage.routing.decisions",
    MetricKind.COUNTER,
    "{request}",
    "Where calls were sent, and why.",
    ("pool", "path", "reason"),
)
RETRIES: Final = Metric(
    "zimage.retries",
    MetricKind.COUNTER,
    "{call}",
    "Stages that were called again, since a replica was lost or full.",
    ("reason",),
    known=(("lost", "full"),),
)
UPLOADS: Final = Metric(
    "zimage.uploads",
    MetricKind.COUNTER,
    "{file}",
    "Files put into the store.",
    ("result",),
)
CACHE_LOOKUPS: Final = Metric(
    "zimage.cache.lookups",
    MetricKind.COUNTER,
    "{lookup}",
    "Look-ups of embeddings and results: hit, shared_hit (found in Redis alone) or miss.",
    ("cache", "result"),
)
STEP_DURATION: Final = Metric(
    "zimage.step.duration",
    MetricKind.HISTOGRAM,
    "s",
    "One batched forward of a step loop.",
    ("pool",),
    _SECONDS,
)
STEP_BUSY: Final = Metric(
    "zimage.step.busy",
    MetricKind.COUNTER,
    "s",
    "Time that step loops spent in forwards; its rate is utilisation.",
    ("pool",),
)
STEP_REQUESTS: Final = Metric(
    "zimage.step.requests",
    MetricKind.COUNTER,
    "{request}",
    "Requests in forwards, each counted in every one; over forwards, the mean batch.",
    ("pool",),
)
BATCH_SIZE: Final = Metric(
    "zimage.step.batch_size",
    MetricKind.HISTOGRAM,
    "{request}",
    "Requests of a step, whose small pictures share a forward.",
    ("pool",),
    _COUNTS,
)
STEP_UNITS: Final = Metric(
    "zimage.step.units",
    MetricKind.COUNTER,
    "{unit}",
    "Work that step loops did.",
    ("pool",),
)
TILES: Final = Metric(
    "zimage.tiles",
    MetricKind.COUNTER,
    "{tile}",
    "Tiles that replicas predicted, one a step each.",
    ("pool",),
)
UNWARMED_SHAPES: Final = Metric(
    "zimage.unwarmed_shapes",
    MetricKind.COUNTER,
    "{size}",
    "Sizes that a replica drew for the first time.",
    ("pool",),
)
BACKLOG_UNITS: Final = Metric(
    "zimage.backlog.units",
    MetricKind.GAUGE,
    "{unit}",
    "Work that a replica holds, running and waiting.",
    ("pool",),
)
QUEUE_AGE: Final = Metric(
    "zimage.queue.age",
    MetricKind.GAUGE,
    "s",
    "Age of the oldest request that a replica has not started.",
    ("pool",),
)
PEAK_MEMORY: Final = Metric(
    "zimage.gpu.memory.peak",
    MetricKind.GAUGE,
    "By",
    "Most GPU memory that the last run of a stage took; none on a CPU.",
    ("stage",),
)
REPLICA_START: Final = Metric(
    "zimage.replica.start.duration",
    MetricKind.HISTOGRAM,
    "s",
    "From the replica's constructor to loaded weights; its count is cold starts.",
    ("stage",),
    _SECONDS,
)
TELEMETRY_DROPPED: Final = Metric(
    "zimage.telemetry.dropped",
    MetricKind.COUNTER,
    "{item}",
    "Spans that were never exported: the queue was full, or the collector failed.",
    ("reason",),
    known=(("queue_full", "export_failed"),),
)
USAGE_RECORDS: Final = Metric(
    "zimage.usage.records",
    MetricKind.COUNTER,
    "{record}",
    "Usage records by what happened to them: accepted, closed, lost, exported, failed.",
    ("state",),
    known=(("accepted", "closed", "lost", "exported", "failed"),),
)

METRICS: Final = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
