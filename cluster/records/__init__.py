"""Record stores: SQLite for one machine, Redis for a cluster."""

from cluster.records.record_store import Event, Record, RecordStore
from cluster.records.redis import RedisRecordStore
from cluster.records.sqlite import SqliteRecordStore

__all__ = ["Event", "Record", "RecordStore", "RedisRecordStore", "SqliteRecordStore"]
