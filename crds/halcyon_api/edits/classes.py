"""The table of edits: which class a field of ``spec`` has. The API server, the operator, ``kubectl halcyon diff`` and the docs go by it.

A row speaks for everything below its path, in which ``*`` stands for any one name, except where a longer path has a row of its own. So each
field has exactly one class, and a new field in a section without a row is found by a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.alias_generators import to_camel

from halcyon_api.base import ApiModel

EditClass = Literal["live", "atCheckpoint", "frozen"]

MEANINGS: dict[EditClass, str] = {
    "live": "applied at once; the processes that train go on",
    "atCheckpoint": "the trainer is asked for a checkpoint, then a new attempt goes on from it: no step is lost",
    "frozen": "refused by the API server when it is applied",
}


@dataclass(frozen=True)
class Row:
    """The class of a field, or of all fields below it."""

    path: str
    edit: EditClass
    why: str
    starts_again: bool = True
    """Whether a run that has stopped for good, or is held back, starts again at such an edit: it may have mended the cause."""


TABLE: tuple[Row, ...] = (
    Row("defaults", "live", "those are taken at once; each field that differs then is an edit of its own class", starts_again=False),
    Row("image", "atCheckpoint", "pods have one image for life"),
    Row("imagePullPolicy", "live", "obeyed when an image is pulled next: with the next attempt"),
    Row("env", "atCheckpoint", "processes get their environment when they start"),
    Row("from", "frozen", "a run begins once"),
    Row("after", "live", "asked before the first attempt only", starts_again=False),
    Row("task", "frozen", "another task is another run"),
    Row("accelerator", "atCheckpoint", "pods are placed once; the batch and the order of the data stay"),
    Row("mesh", "atCheckpoint", "arrays are laid out anew from the checkpoint"),
    Row("model", "frozen", "the arrays of the checkpoint have its shapes"),
    Row("model.*.remat", "atCheckpoint", "says only what is computed twice"),
    Row("tokenizer", "frozen", "tokens would mean something else"),
    Row("data", "frozen", "a step's batch would be another one"),
    Row("data.cache", "atCheckpoint", "says where tokens are kept; changes no batch"),
    Row("data.volume", "atCheckpoint", "volumes are mounted when a pod starts"),
    Row("optimizer", "frozen", "steps that are done would have been others"),
    Row("objective", "frozen", "steps that are done would have been others"),
    Row("trainer", "frozen", "steps that are done would have been others"),
    Row("trainer.steps", "atCheckpoint", "as long as the steps that are done would have been the same (see below)"),
    Row("trainer.microbatches", "atCheckpoint", "says in how many parts a batch is computed"),
    Row("trainer.evaluation", "atCheckpoint", "changes no step"),
    Row("trainer.logEverySteps", "atCheckpoint", "the trainer reads it when it starts"),
    Row("checkpoint", "atCheckpoint", "the trainer reads it when it starts"),
    Row("checkpoint.root", "frozen", "a root belongs to one run for life"),
    Row("recovery", "atCheckpoint", "the trainer and its pods are made with it"),
    Row("recovery.maxRestarts", "live", "in the operator's count at once; in the JobSet's with the next attempt"),
    Row("recovery.elastic", "live", "the operator decides by it"),
    Row("recovery.badNodes", "live", "the operator decides by it"),
    Row("recovery.divergence.spike.windowSteps", "frozen", "the checkpoints hold so many losses; spike itself must not come or go either"),
    Row("scheduling", "atCheckpoint", "pods are placed once"),
    Row("scheduling.queue", "atCheckpoint", "a place in a queue is taken once; the next attempt takes a new one"),
    Row("telemetry", "atCheckpoint", "the trainer opens its port when it starts"),
    Row("telemetry.statusIntervalSeconds", "live", "the operator reads that often", starts_again=False),
    Row("suspend", "live", "saves and releases the hardware, or goes on", starts_again=False),
    Row("ttlSecondsAfterFinished", "live", "the operator counts from the end of the run", starts_again=False),
)


def row_of(path: str) -> Row | None:
    """The row that speaks for a field: the one with the longest path. None: no row does."""
    parts = path.split(".")
    found = [row for row in TABLE if _speaks_for(row.path.split("."), parts)]
    return max(found, key=lambda row: row.path.count("."), default=None)


def _speaks_for(row: list[str], path: list[str]) -> bool:
    return len(row) <= len(path) and all(mine in (theirs, "*") for mine, theirs in zip(row, path, strict=False))


def class_of(path: str) -> EditClass:
    """The class of a field. One that the table does not know is taken for one that needs new pods."""
    row = row_of(path)
    return row.edit if row is not None else "atCheckpoint"


def starts_again(path: str) -> bool:
    """Whether a stopped run starts again when the field is edited."""
    row = row_of(path)
    return row is None or row.starts_again


@dataclass(frozen=True)
class Leaf:
    """A field that has a value of its own: a number, a text, a list, a map, or a kind without members."""

    path: str
    default: Any
    """Its default as JSON; None where it has none."""
    optional: bool
    """Whether the stored object may lack it where its section is there."""


@cache
def leaves_of(model: type[ApiModel], path: str = "") -> tuple[Leaf, ...]:
    """All leaves below a class, in the order of the document."""
    return tuple(_leaves(model, path))


def _leaves(model: type[ApiModel], path: str) -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        child = f"{path}.{field.alias or to_camel(name)}".removeprefix(".")
        section = section_of(field.annotation)
        if section is not None and section.model_fields:
            yield from leaves_of(section, child)
            continue
        default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, ApiModel):
            default = default.document()
        yield Leaf(child, default, not field.is_required() and default is None)


def section_of(annotation: Any) -> type[ApiModel] | None:
    """The class of a field that is an object, required or not; None for anything else."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return annotation
    if get_origin(annotation) is Annotated:
        return section_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((section for part in get_args(annotation) if (section := section_of(part)) is not None), None)
    return None
