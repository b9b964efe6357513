"""The table of fields that have moved. v1beta1 removes it; until then a document may have a field in either place.

Objects that an earlier release stored have the former fields. When the API server reads an object, it drops fields that are not in the
schema. So a former field must stay in the schema; otherwise the value that a run trains with would silently become the default.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MovedField:
    """A field or section that has moved. Paths begin below ``spec``."""

    former: str
    present: str
    kinds: tuple[str, ...] | None = None
    """Of a choice among kinds: the kinds that the former place had. Later kinds exist only in the present place. None: all kinds."""

    @property
    def note(self) -> str:
        """The sentence for the user of a document with the former field."""
        return f"spec.{self.former} is the former place of spec.{self.present}; write spec.{self.present}"


FORMER: tuple[MovedField, ...] = (
    MovedField("stage", "task"),
    MovedField("model.llama.remat", "trainer.remat"),
    MovedField("model.gpt2.remat", "trainer.remat"),
    MovedField("data.mixture.stages", "data.mixture.schedule"),
    MovedField("optimizer.adamw.learningRate", "optimizer.learningRate"),
    MovedField("optimizer.adamw.weightDecay", "optimizer.weightDecay"),
    MovedField("optimizer.adamw.maxGradientNorm", "optimizer.maxGradientNorm"),
    MovedField("optimizer.adamw.schedule", "optimizer.schedule", kinds=("constant", "cosine", "wsd")),
    MovedField("trainer.stages", "trainer.batchSchedule"),
)
"""In the order of the document."""


def is_former(path: str) -> bool:
    """Whether a path below ``spec`` is a former place or is inside one."""
    return any(path == row.former or path.startswith(f"{row.former}.") for row in FORMER)


def concerned(path: str) -> bool:
    """Whether a former or a present place of a row is below a section."""
    return any(place.startswith(f"{path}.") for row in FORMER for place in (row.former, row.present))


def moved_to(path: str) -> MovedField | None:
    """The row with the given present place; None if there is none.

    Raises:
        ValueError: There are several. No rule of the schema compares such a field.
    """
    rows = [row for row in FORMER if row.present == path]
    if len(rows) > 1:
        raise ValueError(f"spec.{path} has several former places")
    return rows[0] if rows else None
