"""Jobs that another version of the service wrote, as far as every version may deal with them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.jobs.job import EXPIRY_INDEX, JobStatus, owner_index
from cluster.jobs.transitions import DEADLINE, JobPolicy
from cluster.records import Record


def fail_unreadable(record: Record, now: float, policy: JobPolicy) -> Record | None:
    """Return a job past its deadline as failed; None for one that has a runner.

    Nobody is told by webhook: what it is owed cannot be read.
    """
    values = _to_values(record.body)
    lease_expires_at = values.get("lease_expires_at")
    if isinstance(lease_expires_at, int | float) and lease_expires_at > now:
        return None
    failed = {
        **values,
        "status": JobStatus.FAILED,
        "failure": asdict(DEADLINE),
        "lease": "",
        "lease_expires_at": None,
        "not_before": None,
        "finished_at": now,
        "expires_at": now + policy.retention_s,
    }
    indexes = {EXPIRY_INDEX: now + policy.retention_s, **_owners_place(values)}
    return Record(record.id, json.dumps(failed, ensure_ascii=False), record.version, "", indexes)


def _to_values(body: str) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _owners_place(values: dict[str, Any]) -> Mapping[str, float]:
    match values:
        case {"owner": str(owner), "created_at": float(created_at)}:
            return {owner_index(owner): created_at}
        case _:
            return {}
