"""What outlives the processes of a run in its pods. Pure.

Every supervisor keeps it, so a new pod of process 0 learns it from the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

MAX_ENDS = 16
MAX_WRITERS = 64
"""More starts in a row than can end before they take the root."""


@dataclass(frozen=True)
class Lineage:
    """The starts of the processes in these pods, until now."""

    number: int = 0
    """Starts before the present one."""
    writers: tuple[str, ...] = ()
    """The nonces with which process 0 takes the checkpoint root, the present one last."""
    ends: tuple[Mapping[str, Any], ...] = ()
    """The ends of the last starts, each a document of `halcyon_api.status.progress.ReportedEnd`."""
    failed_at: int | None = None
    """The newest committed step when a process last failed; None: none has failed. -1: there was no checkpoint."""
    taken: bool = False
    """Whether an earlier start is known to have taken the checkpoint root."""

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """The lineage that a supervisor has sent.

        Raises:
            TypeError, ValueError, KeyError: It is none.
        """
        failed_at = document["failed_at"]
        return cls(
            int(document["number"]),
            tuple(str(writer) for writer in document["writers"])[-MAX_WRITERS:],
            tuple(dict(end) for end in document["ends"])[-MAX_ENDS:],
            None if failed_at is None else int(failed_at),
            bool(document["taken"]),
        )

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)

    def after(self, end: Mapping[str, Any], writer: str, failed_at: int | None, *, taken: bool = False) -> Lineage:
        """The lineage of the next start.

        Args:
            end: How the processes of this start ended.
            writer: The nonce of the next start.
            failed_at: The newest committed step, if a process failed.
            taken: Whether this start has taken the checkpoint root.
        """
        number = self.number + 1
        return replace(
            self,
            number=number,
            writers=(*self.writers, writer)[-MAX_WRITERS:],
            ends=(*self.ends, {**end, "number": number})[-MAX_ENDS:],
            failed_at=self.failed_at if failed_at is None else failed_at,
            taken=self.taken or taken,
        )
