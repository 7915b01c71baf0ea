"""What an idempotency key promises: one execution a key, and its outcome for whoever asks again."""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from cluster.errors import LeaseLostError
from cluster.jobs.job import EXPIRY_INDEX
from cluster.records import Record, RecordStore


@dataclass(frozen=True)
class IdempotentCall:
    """A call that its caller may repeat."""

    owner: str
    key: str = field(repr=False)
    fingerprint: str
    """A hash of all that makes the call."""

    @property
    def record_id(self) -> str:
        """The call's name in the store, which tells nothing of the key."""
        return f"idem-{hashlib.sha256(f'{self.owner} {self.key}'.encode()).hexdigest()}"


@dataclass(frozen=True)
class Claim:
    """The state of a key: who executes it, and what came of it."""

    fingerprint: str
    nonce: str
    """Drawn with the key's first call: what the execution draws comes from it, so that a second
    execution, after a process died, makes the same."""
    lease: str
    lease_expires_at: float
    expires_at: float
    outcome: str | None = None


class Verdict(StrEnum):
    """What a call under a key is to do."""

    EXECUTE = "execute"
    RESUME = "resume"
    """Execute what another execution, which fell silent, may have done already."""
    WAIT = "wait"
    REPLAY = "replay"
    CONFLICT = "conflict"


def judge(claim: Claim, call: IdempotentCall, lease: str, now: float) -> Verdict:
    """Decide what a call does that finds `claim` and names its execution `lease`."""
    if claim.fingerprint != call.fingerprint:
        return Verdict.CONFLICT
    if claim.outcome is not None:
        return Verdict.REPLAY
    if claim.lease == lease:
        return Verdict.EXECUTE
    if claim.lease_expires_at <= now:
        return Verdict.RESUME
    return Verdict.WAIT


class IdempotencyStore:
    """Keeps the claims. Methods block, as the record store's do."""

    def __init__(self, records: RecordStore, *, lease_s: float, retention_s: float) -> None:
        self._records = records
        self._lease_s = lease_s
        self._retention_s = retention_s

    def claim(self, call: IdempotentCall, lease: str) -> tuple[Verdict, Claim]:
        """Take the key, if it is free or its execution fell silent."""
        now = self._records.now()
        fresh = Claim(
            fingerprint=call.fingerprint,
            nonce=secrets.token_hex(12),
            lease=lease,
            lease_expires_at=now + self._lease_s,
            expires_at=now + self._retention_s,
        )
        record = self._records.read(call.record_id)
        if record is None:
            is_first = self._records.insert(_to_record(call, fresh, 0))
            return (Verdict.EXECUTE if is_first else Verdict.WAIT), fresh
        found = Claim(**json.loads(record.body))
        if found.expires_at <= now:
            is_first = self._records.replace(_to_record(call, fresh, record.version))
            return (Verdict.EXECUTE if is_first else Verdict.WAIT), fresh
        verdict = judge(found, call, lease, now)
        if verdict not in (Verdict.EXECUTE, Verdict.RESUME):
            return verdict, found
        taken = replace(found, lease=lease, lease_expires_at=now + self._lease_s)
        is_first = self._records.replace(_to_record(call, taken, record.version))
        return (verdict if is_first else Verdict.WAIT), taken

    def first_claimed_at(self, claim: Claim) -> float:
        """Return when the key's first call came, in seconds since 1970."""
        return claim.expires_at - self._retention_s

    def renew(self, call: IdempotentCall, lease: str) -> None:
        """Extend the lease of an execution.

        Raises:
            LeaseLostError: If another execution has the key.
        """
        until = self._records.now() + self._lease_s
        self._change(call, lease, lambda claim: replace(claim, lease_expires_at=until))

    def complete(self, call: IdempotentCall, lease: str, outcome: str) -> None:
        """Keep the outcome for whoever asks again.

        Raises:
            LeaseLostError: If another execution has the key.
        """
        self._change(call, lease, lambda claim: replace(claim, outcome=outcome))

    def abandon(self, call: IdempotentCall, lease: str) -> None:
        """Free the key, if the execution has done nothing; another body may have it then.

        Raises:
            LeaseLostError: If another execution has the key.
        """
        while not self._records.delete(self._owned(call, lease)[0]):
            continue

    def hand_over(self, call: IdempotentCall, lease: str) -> None:
        """Let another execution go on at once, which draws the same: this one may have acted.

        Raises:
            LeaseLostError: If another execution has the key.
        """
        until = self._records.now()
        self._change(call, lease, lambda claim: replace(claim, lease="", lease_expires_at=until))

    def _change(
        self, call: IdempotentCall, lease: str, transition: Callable[[Claim], Claim]
    ) -> None:
        while True:
            record, claim = self._owned(call, lease)
            if self._records.replace(_to_record(call, transition(claim), record.version)):
                return

    def _owned(self, call: IdempotentCall, lease: str) -> tuple[Record, Claim]:
        record = self._records.read(call.record_id)
        if record is not None:
            claim = Claim(**json.loads(record.body))
            if claim.lease == lease and claim.outcome is None:
                return record, claim
        raise LeaseLostError("another call has the idempotency key")


def _to_record(call: IdempotentCall, claim: Claim, version: int) -> Record:
    return Record(
        call.record_id,
        json.dumps(asdict(claim)),
        version,
        indexes={EXPIRY_INDEX: claim.expires_at},
    )
