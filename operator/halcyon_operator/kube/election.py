"""Leader election: which operator process may write, by one Lease of coordination.k8s.io. Pure: clocks are arguments.

The holder renews the Lease every `RENEW_SECONDS`. It may write to the cluster until `HOLD_SECONDS` after the start of
its last successful write of the Lease, and not longer, even if the API server, the network or its own process fails
meanwhile. The other processes wait until the Lease has been unchanged for `LEASE_SECONDS` since they saw the last
change; clocks of different machines are never compared. A change is seen after its write has started, so the next
holder starts at least `LEASE_SECONDS - HOLD_SECONDS` after the last one stopped. A request in flight ends within that
time.

A Lease without a holder was released: the first process that sees it may take it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from halcyon_operator.model.decision import Manifest
from halcyon_operator.model.untrusted import count, mapping, text, value_at

API_VERSION = "coordination.k8s.io/v1"
LEASE_SECONDS = 12.0
"""Time for which a Lease must be unchanged before another process may take it."""
HOLD_SECONDS = 8.0
"""Time after a renewal in which the holder may write; less than `LEASE_SECONDS`."""
RENEW_SECONDS = 2.0
"""Interval of the holder's renewals; less than `HOLD_SECONDS`."""
POLL_SECONDS = 1.0
"""Interval of the other processes' reads."""
LONGEST_LEASE_SECONDS = 120.0
"""Longest wait for a Lease, for the case of a damaged Lease. This operator writes only shorter ones."""


@dataclass(frozen=True)
class LeaseRecord:
    """The present or a new state of a Lease."""

    holder: str = ""
    duration_seconds: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0
    version: str = ""
    """Its resource version; empty: the Lease does not exist."""


def parse_lease(document: object) -> LeaseRecord:
    """A Lease from its document. Never raises."""
    spec = mapping(value_at(document, "spec"))
    return LeaseRecord(
        holder=text(spec.get("holderIdentity"), 256),
        duration_seconds=count(spec.get("leaseDurationSeconds")),
        acquired=text(spec.get("acquireTime"), 64),
        renewed=text(spec.get("renewTime"), 64),
        transitions=count(spec.get("leaseTransitions")),
        version=text(value_at(document, "metadata", "resourceVersion"), 64),
    )


def lease_document(record: LeaseRecord, namespace: str, name: str) -> Manifest:
    """The document of a Lease.

    An update contains the resource version that the Lease must still have; a creation has none.
    """
    times = {"acquireTime": record.acquired, "renewTime": record.renewed}
    spec: Manifest = {
        "leaseDurationSeconds": max(1, record.duration_seconds),
        "leaseTransitions": record.transitions,
    }
    spec |= {field: value for field, value in times.items() if value}
    metadata = {"name": name, "namespace": namespace} | ({"resourceVersion": record.version} if record.version else {})
    return {
        "apiVersion": API_VERSION,
        "kind": "Lease",
        "metadata": metadata,
        "spec": spec | {"holderIdentity": record.holder},
    }


class Election:
    """One candidate's view of the Lease.

    All times named `now` and `began` are seconds of one clock that never goes back and counts while the machine sleeps.

    Args:
        identity: The candidate's name, unique among the processes that may still run.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._seen = LeaseRecord()
        self._seen_at: float | None = None
        self._held_until: float | None = None

    def leads(self, now: float) -> bool:
        """Whether this candidate may write."""
        return self._held_until is not None and now < self._held_until

    def left(self, now: float) -> float:
        """Seconds for which this candidate may still write."""
        return max(0.0, self._held_until - now) if self._held_until is not None else 0.0

    @property
    def holder(self) -> str:
        """Holder of the Lease when it was last seen; empty: none."""
        return self._seen.holder

    @property
    def known(self) -> bool:
        """Whether this candidate held the Lease when it was last seen, so that it can renew it without another read."""
        return self._seen.holder == self.identity and bool(self._seen.version)

    def record_read(self, record: LeaseRecord, now: float) -> None:
        """Record a read of the Lease."""
        if self._seen_at is None or record != self._seen:
            self._seen, self._seen_at = record, now
        if record.holder != self.identity:
            # This candidate does not hold the Lease any more: another process holds it, or none does.
            self._held_until = None

    def proposal(self, now: float, wall: datetime) -> LeaseRecord | None:
        """The Lease that this candidate may write now, over the version that it last saw; None: it must wait."""
        if self._seen_at is None:
            return None
        seen, stamp = self._seen, wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        duration = round(LEASE_SECONDS)
        if seen.holder == self.identity:
            return replace(seen, duration_seconds=duration, renewed=stamp)
        patience = min(max(LEASE_SECONDS, float(seen.duration_seconds)), LONGEST_LEASE_SECONDS)
        if seen.holder and now - self._seen_at < patience:
            return None
        transitions = min(seen.transitions + 1, 2**31 - 1) if seen.version else 0
        return LeaseRecord(self.identity, duration, stamp, stamp, transitions, seen.version)

    def record_write(self, record: LeaseRecord, began: float) -> None:
        """Record a successful write of a proposal.

        Args:
            record: The written Lease, with its new version.
            began: When the request was sent.
        """
        self._seen, self._seen_at = record, began
        self._held_until = began + HOLD_SECONDS if record.holder == self.identity else None

    def begin_write(self) -> None:
        """Record that a write of the Lease has started.

        Without its answer, the Lease must be read before the next write.
        """
        self._seen = replace(self._seen, version="")

    def release(self, wall: datetime) -> LeaseRecord | None:
        """The Lease without a holder, for a holder that stops to write; None if this candidate does not hold the
        Lease.
        """
        self._held_until = None
        if not self.known:
            return None
        record = replace(
            self._seen, holder="", duration_seconds=1, renewed=wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        )
        self.begin_write()
        return record
