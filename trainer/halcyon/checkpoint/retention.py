"""Which checkpoints are made for good, and which stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.spec.checkpoint import CheckpointSpec, PermanentSpec


def guarded(committed: Sequence[CommittedStep]) -> frozenset[str]:
    """Prefixes of checkpoints that stay for their verification's sake: the newest that passed, and a newer one that is still to be read.

    Args:
        committed: Newest first.
    """
    for number, entry in enumerate(committed):
        if entry.verification == "passed":
            wanted = next((one.path for one in committed[:number] if one.verification == "wanted"), entry.path)
            return frozenset({entry.path, wanted})
    return frozenset(next(((one.path,) for one in committed if one.verification == "wanted"), ()))


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
