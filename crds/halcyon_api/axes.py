"""The table of mesh axes: the link of each axis, and the axes of arrays that it splits.

The sections ``mesh.ici`` and ``mesh.dcn`` and the resolved mesh have one field for each row. Sizes, rules, the
trainer's device mesh and its shardings use the table. A new axis is one row here, and a field in its section and in the
resolved mesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LogicalAxis = Literal["batch", "position", "heads", "features", "vocabulary", "experts", "parameters"]
"""An axis that can be split: sequences of a batch, positions of a sequence, attention heads, features inside an MLP,
tokens of the vocabulary, experts, and the residual stream's width in stored parameters, which are gathered before their
use."""

Link = Literal["ici", "dcn"]
"""``ici``: the fast interconnect inside a slice. ``dcn``: the data-centre network between slices."""

REST = -1
"""Size of an axis that gets the devices which the other axes leave."""


@dataclass(frozen=True)
class MeshAxis:
    """One axis of the device mesh."""

    name: str
    link: Link
    splits: tuple[LogicalAxis, ...]
    default: int
    """Size if the document sets none."""
    meaning: str

    @property
    def path(self) -> str:
        """Path of its field below ``spec``."""
        return f"mesh.{self.link}.{self.name}"

    @property
    def description(self) -> str:
        """Description of the document's field."""
        rest = "all slices" if self.link == "dcn" else "the rest"
        return f"{self.meaning}. {REST}: {rest}."


AXES: tuple[MeshAxis, ...] = (
    MeshAxis("replica", "dcn", ("batch",), REST, "Data parallelism across slices"),
    MeshAxis("data", "ici", ("batch",), 1, "Data parallelism with replicated parameters"),
    MeshAxis(
        "fsdp",
        "ici",
        ("batch", "parameters"),
        REST,
        "Data parallelism with parameters and optimizer state sharded over the axis",
    ),
    MeshAxis(
        "expert",
        "ici",
        ("batch", "experts"),
        1,
        "Expert parallelism: experts are split over the axis and tokens are sent to them; all other parameters are "
        "replicated",
    ),
    MeshAxis(
        "context",
        "ici",
        ("position",),
        1,
        "Context parallelism: positions of a sequence are split over the axis, and attention passes keys and values "
        "around it",
    ),
    MeshAxis(
        "tensor",
        "ici",
        ("heads", "features", "vocabulary"),
        1,
        "Tensor parallelism: heads, MLP and vocabulary are split over the axis",
    ),
)
"""Outermost first: neighbours on the last axis use the fastest links."""

OF_PARAMETERS: frozenset[LogicalAxis] = frozenset({"heads", "features", "vocabulary", "experts", "parameters"})
"""Logical axes of parameters. A mesh axis that splits one of them shards the model."""


def axis(name: str) -> MeshAxis:
    """The row of an axis."""
    return next(row for row in AXES if row.name == name)


def on(link: Link) -> tuple[MeshAxis, ...]:
    """The axes on a kind of link, outermost first."""
    return tuple(row for row in AXES if row.link == link)


def splitting(*logical: LogicalAxis) -> tuple[MeshAxis, ...]:
    """The mesh axes that split at least one of the given logical axes, outermost first."""
    return tuple(row for row in AXES if set(row.splits) & set(logical))


def product(sizes: Mapping[str, int]) -> str:
    """Sizes as users read them, such as ``replica 2 x fsdp 4``: without axes of size 1, unless there is no other."""
    shown = {name: size for name, size in sizes.items() if size != 1} or dict([*sizes.items()][-1:])
    return " x ".join(f"{name} {size}" for name, size in shown.items())
