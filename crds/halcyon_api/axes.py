"""The table of mesh axes: which link an axis wants, and which axes of arrays it splits.

The sections ``mesh.ici`` and ``mesh.dcn`` have one field for each row, and so has the resolved mesh. Sizes, rules, the trainer's device
mesh and its shardings go by the table. A new axis is one row here, and a field in its section and in the resolved mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LogicalAxis = Literal["batch", "position", "heads", "features", "vocabulary", "experts", "parameters"]
"""What can be split: sequences of a batch, positions of a sequence, attention heads, features inside an MLP, tokens of the vocabulary,
experts, and the width of the residual stream of parameters at rest, which are gathered before their use."""

Link = Literal["ici", "dcn"]
"""``ici``: the fast interconnect inside a slice. ``dcn``: the data-centre network between slices."""

REST = -1
"""As a size: what the other axes leave."""


@dataclass(frozen=True)
class MeshAxis:
    """One axis of the device mesh."""

    name: str
    link: Link
    splits: tuple[LogicalAxis, ...]
    default: int
    """Its size where the document says none."""
    meaning: str

    @property
    def path(self) -> str:
        """Its field below ``spec``."""
        return f"mesh.{self.link}.{self.name}"

    @property
    def description(self) -> str:
        """What the document's field says of itself."""
        rest = "all slices" if self.link == "dcn" else "the rest"
        return f"{self.meaning}. {REST}: {rest}."


AXES: tuple[MeshAxis, ...] = (
    MeshAxis("replica", "dcn", ("batch",), REST, "Data parallelism across slices"),
    MeshAxis("data", "ici", ("batch",), 1, "Data parallelism with replicated parameters"),
    MeshAxis("fsdp", "ici", ("batch", "parameters"), REST, "Data parallelism with parameters and optimizer state sharded over the axis"),
    MeshAxis(
        "tensor", "ici", ("heads", "features", "vocabulary"), 1, "Tensor parallelism: heads, MLP and vocabulary are split over the axis"
    ),
)
"""Outermost first: neighbours on the last axis use the fastest links."""

OF_PARAMETERS: frozenset[LogicalAxis] = frozenset({"heads", "features", "vocabulary", "experts", "parameters"})
"""Logical axes that parameters have: what an axis that splits one of them holds is a share of the model."""


def axis(name: str) -> MeshAxis:
    """The row of an axis."""
    return next(row for row in AXES if row.name == name)


def on(link: Link) -> tuple[MeshAxis, ...]:
    """The axes on a kind of link, outermost first."""
    return tuple(row for row in AXES if row.link == link)


def splitting(*logical: LogicalAxis) -> tuple[MeshAxis, ...]:
    """The axes that split one of some logical axes, outermost first."""
    return tuple(row for row in AXES if set(row.splits) & set(logical))
