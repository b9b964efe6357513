"""The causes by which a run's time is counted. Every second belongs to exactly one cause.

A trainer process counts its own seconds by what its loop does or waits for. The operator adds the times that no process
can measure (waiting for hardware, restarting, steps that had to be repeated) and keeps the sums over all attempts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from halcyon_api.base import Ratio, StatusModel, Timestamp


@dataclass(frozen=True)
class Look:
    """How a report shows a cause. It stands in the annotation of the field of `GoodputSeconds` that is the cause."""

    place: int
    """Its place in the picture of a process group, where causes stand in the order in which they occur."""
    meaning: str
    colour: str


class GoodputSeconds(StatusModel):
    """Seconds by cause. `productiveStep` is goodput, everything else is badput."""

    productive_step: Annotated[NonNegativeFloat, Look(10, "steps that were not repeated", "#2e7d32")] = 0.0
    """Steps that were kept."""
    startup: Annotated[NonNegativeFloat, Look(2, "image, container, interpreter, imports", "#1565c0")] = 0.0
    """From scheduled pods to processes that join: image, container, imports."""
    join: Annotated[NonNegativeFloat, Look(3, "processes connected", "#4fc3f7")] = 0.0
    """Waiting for the other processes."""
    restore: Annotated[NonNegativeFloat, Look(5, "state built or restored", "#3949ab")] = 0.0
    """Building or restoring the state."""
    compile: Annotated[NonNegativeFloat, Look(6, "compilation, first step", "#5c6bc0")] = 0.0
    """Compiling, and the first step of a process."""
    data_wait: Annotated[NonNegativeFloat, Look(4, "waited for data", "#8e24aa")] = 0.0
    """Waiting for token caches or a batch."""
    pool_wait: Annotated[NonNegativeFloat, Look(8, "waited for the pool", "#ad1457")] = 0.0
    """Waiting for samplers; as a sampler, for weights."""
    save_blocking: Annotated[NonNegativeFloat, Look(12, "blocked by a checkpoint", "#00838f")] = 0.0
    """The loop waited for a save, the last one included."""
    evaluation: Annotated[NonNegativeFloat, Look(7, "evaluated", "#7cb342")] = 0.0
    """Evaluating."""
    audit: Annotated[NonNegativeFloat, Look(9, "audited the devices", "#795548")] = 0.0
    """Auditing."""
    lost_work: Annotated[NonNegativeFloat, Look(11, "steps that had to be repeated", "#c62828")] = 0.0
    """Repeated steps."""
    capacity_wait: Annotated[NonNegativeFloat, Look(1, "waited for hardware", "#f9a825")] = 0.0
    """Pods waiting for hardware."""
    operator_delay: Annotated[NonNegativeFloat, Look(0, "old pods ended, new pods created", "#ef6c00")] = 0.0
    """From ended processes to new pods."""
    other: Annotated[NonNegativeFloat, Look(13, "shutdown, or not observed", "#9e9e9e")] = 0.0
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
LOOKS: dict[str, Look] = dict(
    sorted(
        (
            (cause, look)
            for cause in CAUSES
            for look in GoodputSeconds.model_fields[cause].metadata
            if type(look) is Look
        ),
        key=lambda row: row[1].place,
    )
)
"""The look of each cause, in the order in which the causes occur in a process group."""


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
