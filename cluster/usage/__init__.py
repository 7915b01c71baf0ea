"""Usage records: one a call, journalled at acceptance, closed at its end, exported at least once.

`Journal` is a process's own append-only file; `UsageRecorder` writes it, exports what is closed and
takes over the journals of processes that died; `count_usage` counts each id once.
"""

from cluster.usage.counting import Price, UsageTotal, count_usage, merge_records, read_records
from cluster.usage.exporters import BucketExporter, FileExporter, StdoutExporter, UsageExporter
from cluster.usage.hashing import hash_input, load_secret
from cluster.usage.record import StageMilliseconds, UsageRecord
from cluster.usage.recorder import UsageRecorder

__all__ = [
    "BucketExporter",
    "FileExporter",
    "Price",
    "StageMilliseconds",
    "StdoutExporter",
    "UsageExporter",
    "UsageRecord",
    "UsageRecorder",
    "UsageTotal",
    "count_usage",
    "hash_input",
    "load_secret",
    "merge_records",
    "read_records",
]
