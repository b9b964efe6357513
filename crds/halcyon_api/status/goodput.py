"""The causes by which a run's time is counted. Every second belongs to exactly one cause.

A trainer process counts its own seconds by what its loop does or waits for. The operator adds the times that no process
can measure (waiting for hardware, restarting, steps that had to be repeated) and keeps the sums over all attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from halcyon_api.base import Ratio, StatusModel, Timestamp


class GoodputSeconds(StatusModel):
    """Seconds by cause. `productiveStep` is goodput, everything else is badput."""

    productive_step: NonNegativeFloat = 0.0
    """Steps that were kept."""
    startup: NonNegativeFloat = 0.0
    """From scheduled pods to processes that join: image, container, imports."""
    join: NonNegativeFloat = 0.0
    """Waiting for the other processes."""
    restore: NonNegativeFloat = 0.0
    """Building or restoring the state."""
    compile: NonNegativeFloat = 0.0
    """Compiling, and the first step of a process."""
    data_wait: NonNegativeFloat = 0.0
    """Waiting for token caches or a batch."""
    save_blocking: NonNegativeFloat = 0.0
    """The loop waited for a save, the last one included."""
    evaluation: NonNegativeFloat = 0.0
    """Evaluating."""
    audit: NonNegativeFloat = 0.0
    """Auditing."""
    lost_work: NonNegativeFloat = 0.0
    """Repeated steps."""
    capacity_wait: NonNegativeFloat = 0.0
    """Pods waiting for hardware."""
    operator_delay: NonNegativeFloat = 0.0
    """From ended processes to new pods."""
    other: NonNegativeFloat = 0.0
    """All else: ending processes, time without a report."""

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

    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds)
    """Since the end of the previous process group."""
    process: GoodputSeconds | None = None
    """Seconds in the last report of its process; absent before the first."""


class CarriedGoodput(StatusModel):
    """Sums over the process groups that are no longer in `history`."""

    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds)
    """Their seconds by cause."""
    lost_steps: NonNegativeInt = 0
    """Steps that had to be repeated."""


class Goodput(StatusModel):
    """The time of a run by cause, and the share of it that was productive."""

    ratio: Ratio
    """Productive seconds divided by wall seconds."""
    wall_seconds: NonNegativeFloat
    """Seconds from the first start to `countedUntil`, without suspensions."""
    productive_seconds: NonNegativeFloat
    """Seconds in steps that were kept."""
    lost_steps: NonNegativeInt = 0
    """Steps that had to be repeated."""
    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds)
    """All wall seconds by cause."""
    suspended_seconds: NonNegativeFloat = 0.0
    """Seconds of suspension, in no other sum."""
    counted_until: Timestamp | None = None
    """All time up to this moment is counted."""
    current: WorldAccount = Field(default_factory=WorldAccount)
    """The present process group."""
    carried: CarriedGoodput = Field(default_factory=CarriedGoodput)
    """Sums over the process groups no longer in `history`."""
