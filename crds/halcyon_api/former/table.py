"""The table of fields that have moved. It goes with v1beta1; until then a document may write a field in either place.

Objects that an earlier release stored have the former fields. The API server drops a field that its schema does not know when it reads the
object, so a former field must stay in the schema, or the value that a run trains with would become the default without a word.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MovedField:
    """A field, or a section, with another place. Paths begin below ``spec``."""

    former: str
    present: str

    @property
    def note(self) -> str:
        """The sentence for a user whose document has the former field."""
        return f"spec.{self.former} is the former place of spec.{self.present}; write spec.{self.present}"


FORMER: tuple[MovedField, ...] = (
    MovedField("stage", "task"),
    MovedField("data.mixture.stages", "data.mixture.schedule"),
    MovedField("optimizer.adamw.learningRate", "optimizer.learningRate"),
    MovedField("optimizer.adamw.weightDecay", "optimizer.weightDecay"),
    MovedField("optimizer.adamw.maxGradientNorm", "optimizer.maxGradientNorm"),
    MovedField("optimizer.adamw.schedule", "optimizer.schedule"),
    MovedField("trainer.stages", "trainer.batchSchedule"),
)
"""In the order of the document."""


def is_former(path: str) -> bool:
    """Whether a path below ``spec`` is a former place, or lies in one."""
    return any(path == row.former or path.startswith(f"{row.former}.") for row in FORMER)


def concerned(path: str) -> bool:
    """Whether a section has a former or a present place of a row below it."""
    return any(place.startswith(f"{path}.") for row in FORMER for place in (row.former, row.present))


def moved_to(path: str) -> MovedField | None:
    """The row whose present place is a path."""
    return next((row for row in FORMER if row.present == path), None)
