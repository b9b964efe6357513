"""The causes that a run's time is put to account under: every second of it belongs to exactly one.

A trainer counts its own life, second by second, by what its loop does or waits for. The operator adds what no process can know (waiting for
hardware, being started anew, steps that had to be done again) and keeps the sums over all attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import ConfigDict, Field

from halcyon_api.base import ApiModel, Timestamp


class _Account(ApiModel):
    """Accounts survive up- and downgrades: fields not known here are passed over."""

    model_config = ConfigDict(extra="ignore")


class GoodputSeconds(_Account):
    """Seconds by cause. `productiveStep` is goodput, everything else is badput."""

    productive_step: float = Field(default=0.0, ge=0, description="In steps that lasted.")
    startup: float = Field(
        default=0.0, ge=0, description="From scheduled pods to a process that looks for its peers: image, container, imports."
    )
    join: float = Field(default=0.0, ge=0, description="Waiting for the other processes.")
    restore: float = Field(default=0.0, ge=0, description="Building or restoring the state.")
    compile: float = Field(default=0.0, ge=0, description="Tracing, compiling and the first step of a process.")
    data_wait: float = Field(default=0.0, ge=0, description="Waiting for token caches or for a batch.")
    save_blocking: float = Field(
        default=0.0, ge=0, description="The loop stood still for a checkpoint, the last one before a leave included."
    )
    evaluation: float = Field(default=0.0, ge=0, description="Evaluating.")
    lost_work: float = Field(default=0.0, ge=0, description="In steps that had to be done again.")
    capacity_wait: float = Field(default=0.0, ge=0, description="Pods waited for hardware.")
    operator_delay: float = Field(default=0.0, ge=0, description="From the end of the processes to new pods: JobSet and operator.")
    other: float = Field(default=0.0, ge=0, description="Everything else: ending, and what nobody saw.")

    @property
    def total(self) -> float:
        """The sum over all causes, to the millisecond."""
        return sum(self.milliseconds().values()) / 1000

    def milliseconds(self) -> dict[str, int]:
        """Whole milliseconds by the names of the fields, for sums that are exact."""
        return {cause: round(1000 * getattr(self, cause)) for cause in CAUSES}

    @classmethod
    def of_milliseconds(cls, milliseconds: Mapping[str, int]) -> Self:
        """The opposite of `milliseconds`; what is below zero counts as zero."""
        return cls(**{cause: max(0, count) / 1000 for cause, count in milliseconds.items()})


CAUSES: tuple[str, ...] = tuple(GoodputSeconds.model_fields)
"""All causes, by the names of the fields, productive steps first."""
BADPUT_CAUSES: tuple[str, ...] = CAUSES[1:]


def cause_label(cause: str) -> str:
    """A cause as documents and metrics' labels have it, such as ``lostWork``."""
    alias = GoodputSeconds.model_fields[cause].alias
    return alias or cause


class WorldAccount(_Account):
    """The account of the world of processes that is under way, or about to come."""

    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds, description="Since the end of the world before it.")
    process: GoodputSeconds | None = Field(default=None, description="What its process had counted by then; empty before it answered.")


class CarriedGoodput(_Account):
    """Sums over the worlds that have left `history`."""

    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds, description="Their seconds by cause.")
    lost_steps: int = Field(default=0, ge=0, description="Steps that had to be done again.")


class Goodput(_Account):
    """Where the time of a run went, and how much of it was training that lasted."""

    ratio: float = Field(ge=0, le=1, description="Productive seconds by wall seconds.")
    wall_seconds: float = Field(ge=0, description="Seconds from the first start to `countedUntil`, suspension left out.")
    productive_seconds: float = Field(ge=0, description="Seconds in steps that lasted.")
    lost_steps: int = Field(default=0, ge=0, description="Steps that had to be done again.")
    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds, description="All wall seconds by cause.")
    suspended_seconds: float = Field(default=0.0, ge=0, description="Seconds of suspension, which are nobody's loss and in no other sum.")
    counted_until: Timestamp | None = Field(default=None, description="Until when all time is put to account.")
    current: WorldAccount = Field(default_factory=WorldAccount, description="The world that is under way.")
    carried: CarriedGoodput = Field(default_factory=CarriedGoodput, description="What worlds that have left `history` contributed.")
