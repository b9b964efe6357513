"""Which checkpoints are made for good, and which stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from halcyon_api.spec.checkpoint import CheckpointSpec, PermanentSpec


@dataclass(frozen=True)
class Retention:
    """What a run keeps of its checkpoints.

    Attributes:
        newest: So many of the newest.
        permanent: Steps that are kept for good, in rising order of their ends.
    """

    newest: int
    permanent: tuple[PermanentSpec, ...] = ()

    @classmethod
    def of(cls, spec: CheckpointSpec) -> Self:
        """What a run's document asks for."""
        return cls(spec.keep, tuple(spec.permanent))

    def keeps(self, number: int, step: int) -> bool:
        """Whether the checkpoint of a step stays that is the ``number``-th newest, counted from 0."""
        return number < self.newest or self.is_permanent(step)

    def is_permanent(self, step: int) -> bool:
        """Whether the checkpoint after `step` steps is made, and kept for good."""
        for entry in self.permanent:
            if entry.until_step is None or step <= entry.until_step:
                return step > 0 and step % entry.every_steps == 0
        return False
