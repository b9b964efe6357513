"""The causes by which a run's time is counted. Every second belongs to exactly one cause.

A trainer process counts its own seconds by what its loop does or waits for. The operator adds the times that no process
can measure (waiting for hardware, restarting, steps that had to be repeated) and keeps the sums over all attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field

from halcyon_api.base import StatusModel, Timestamp, optional


class GoodputSeconds(StatusModel):
    """Seconds by cause. `productiveStep` is goodput, everything else is badput."""

    productive_step: float = Field(default=0.0, ge=0, description="Steps that were kept.")
    startup: float = Field(
        default=0.0,
        ge=0,
        description="From scheduled pods to processes that start to join each other: image, container, imports.",
    )
    join: float = Field(default=0.0, ge=0, description="Waiting for the other processes.")
    restore: float = Field(default=0.0, ge=0, description="Building or restoring the state.")
    compile: float = Field(default=0.0, ge=0, description="Tracing, compiling and the first step of a process.")
    data_wait: float = Field(default=0.0, ge=0, description="Waiting for token caches or for a batch.")
    save_blocking: float = Field(
        default=0.0, ge=0, description="The training loop waited for a checkpoint, the last save included."
    )
    evaluation: float = Field(default=0.0, ge=0, description="Evaluating.")
    lost_work: float = Field(default=0.0, ge=0, description="Steps that had to be repeated.")
    capacity_wait: float = Field(default=0.0, ge=0, description="Pods waiting for hardware.")
    operator_delay: float = Field(
        default=0.0, ge=0, description="From the end of the processes to new pods: JobSet and operator."
    )
    other: float = Field(
        default=0.0, ge=0, description="Everything else: processes that are ending, and time without a report."
    )

    @property
    def total(self) -> float:
        """The sum over all causes, to the millisecond."""
        return sum(self.milliseconds().values()) / 1000

    def milliseconds(self) -> dict[str, int]:
        """Whole milliseconds by field name, for exact sums."""
        return {cause: round(1000 * getattr(self, cause)) for cause in CAUSES}

    @classmethod
    def of_milliseconds(cls, milliseconds: Mapping[str, int]) -> Self:
        """The inverse of `milliseconds`; negative values count as zero."""
        return cls(**{cause: max(0, count) / 1000 for cause, count in milliseconds.items()})


CAUSES: tuple[str, ...] = tuple(GoodputSeconds.model_fields)
"""All causes as field names, productive steps first."""
BADPUT_CAUSES: tuple[str, ...] = CAUSES[1:]


def cause_label(cause: str) -> str:
    """A cause as written in documents and metric labels, such as ``lostWork``."""
    alias = GoodputSeconds.model_fields[cause].alias
    return alias or cause


class WorldAccount(StatusModel):
    """The seconds of the present process group, or of the next one while there is none."""

    seconds: GoodputSeconds = Field(
        default_factory=GoodputSeconds, description="Since the end of the previous process group."
    )
    process: GoodputSeconds | None = optional("Seconds in the last report of its process; absent before the first.")


class CarriedGoodput(StatusModel):
    """Sums over the process groups that are no longer in `history`."""

    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds, description="Their seconds by cause.")
    lost_steps: int = Field(default=0, ge=0, description="Steps that had to be repeated.")


class Goodput(StatusModel):
    """The time of a run by cause, and the share of it that was productive."""

    ratio: float = Field(ge=0, le=1, description="Productive seconds divided by wall seconds.")
    wall_seconds: float = Field(
        ge=0, description="Seconds from the first start to `countedUntil`, without suspensions."
    )
    productive_seconds: float = Field(ge=0, description="Seconds in steps that were kept.")
    lost_steps: int = Field(default=0, ge=0, description="Steps that had to be repeated.")
    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds, description="All wall seconds by cause.")
    suspended_seconds: float = Field(default=0.0, ge=0, description="Seconds of suspension. They are in no other sum.")
    counted_until: Timestamp | None = optional("All time up to this moment is counted.")
    current: WorldAccount = Field(default_factory=WorldAccount, description="The present process group.")
    carried: CarriedGoodput = Field(
        default_factory=CarriedGoodput, description="Sums over the process groups no longer in `history`."
    )
