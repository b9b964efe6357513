"""The table of edits: the class of each field of ``spec``, and the API server's rules that freeze fields. The API
server, the operator, ``kubectl halcyon diff`` and the docs use it.

A row applies to everything below its path, except where a longer path has a row of its own. ``*`` in a path matches any
one name. So each field has exactly one class. A test finds a new field in a section without a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from halcyon_api.base import ApiModel, cel, fields_by_name

RULED_BY_THEIR_SECTION = ("recovery.divergence.spike",)
"""Sections that have their own rule, because it concerns more than one field."""
LEFT_TO_DEFAULTS = ("checkpoint.root",)
"""Fields that the document may leave to the defaults.

A rule of the whole run ensures that they are not added or removed later.
"""


def frozen_rules(model: type[ApiModel]) -> tuple[dict[str, str], ...]:
    """One rule for each frozen field, or for a section whose leaves are all frozen.

    Raises:
        ValueError: Some fields of a section that may be absent are frozen; the message gives its path.
    """
    return tuple(_rules(model, ""))


def _rules(model: type[ApiModel], path: str) -> Iterator[dict[str, str]]:
    for name, field in fields_by_name(model).items():
        child = f"{path}.{name}".removeprefix(".")
        section = section_of(field.annotation)
        below = (
            [leaf.path for leaf in leaves_of(section, child)]
            if section is not None and section.model_fields
            else [child]
        )
        frozen = [class_of(leaf) == "frozen" for leaf in below]
        if not any(frozen) or child in RULED_BY_THEIR_SECTION:
            continue
        optional = not field.is_required() and field.default is None
        if child in LEFT_TO_DEFAULTS:
            yield _frozen(f"!has(self.{child}) || !has(oldSelf.{child}) || self.{child} == oldSelf.{child}", child)
        elif section is None or all(frozen):
            # A section is compared as a whole: with a rule for each of its fields the definition would be too long for
            # an annotation.
            yield _frozen(
                _equal(child, optional=optional),
                child,
                " (see `kubectl halcyon diff`)" if len(below) > 1 else "",
            )
        elif optional:
            raise ValueError(
                f"{child}: a section that may be absent must be frozen as a whole, or be in RULED_BY_THEIR_SECTION"
            )
        else:
            yield from _rules(section, child)


def _equal(path: str, *, optional: bool) -> str:
    """The expression that a field has the same value in ``self`` and ``oldSelf``.

    The API server cannot estimate the cost of ``self.?a == oldSelf.?a`` for an object, and rejects it.
    """
    equal = f"self.{path} == oldSelf.{path}"
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {equal})" if optional else equal


def _frozen(rule: str, path: str, which: str = "") -> dict[str, str]:
    return cel(
        rule,
        f"{path} must not change{which}; train the change in a new run with spec.from",
        field_path=f".{path}",
        reason="FieldValueForbidden",
    )


EditClass = Literal["live", "atCheckpoint", "frozen"]

MEANINGS: dict[EditClass, str] = {
    "live": "applied at once; the training processes continue",
    "atCheckpoint": "the operator requests a checkpoint, then a new attempt continues from it: no step is lost",
    "frozen": "rejected by the API server when it is applied",
}


@dataclass(frozen=True)
class EditRule:
    """The class of a field, or of all fields below it."""

    path: str
    edit: EditClass
    why: str
    starts_again: bool = True
    """Whether such an edit starts a stalled or delayed run again, because it may have fixed the cause."""


_ROUNDING = "later losses may differ in their last digits"

EDIT_RULES: tuple[EditRule, ...] = (
    EditRule(
        "defaults",
        "live",
        "applied at once; each field that then differs is an edit of its own class",
        starts_again=False,
    ),
    EditRule("image", "atCheckpoint", "the image of a pod cannot change"),
    EditRule("imagePullPolicy", "live", "used at the next pull of an image, with the next attempt"),
    EditRule("env", "atCheckpoint", "processes get their environment when they start"),
    EditRule("from", "frozen", "a run begins once"),
    EditRule("after", "live", "checked before the first attempt only", starts_again=False),
    EditRule("task", "frozen", "another task is another run"),
    EditRule("accelerator", "atCheckpoint", "pods are placed once; the batch and the order of the data stay"),
    EditRule(
        "accelerator.pricePerChipHour", "live", "only reports use it, from the next attempt on", starts_again=False
    ),
    EditRule("place", "live", "only the operator uses it; if the present row changes, a new attempt waits for a save"),
    EditRule("mesh", "atCheckpoint", "arrays are sharded again from the checkpoint"),
    EditRule("model", "frozen", "the arrays of the checkpoint have its shapes"),
    EditRule("adapter", "frozen", "the arrays of the checkpoint have its shapes"),
    EditRule("tokenizer", "frozen", "tokens would have another meaning"),
    EditRule("data", "frozen", "the batch of a step would differ"),
    EditRule("data.cache", "atCheckpoint", "changes where tokens are kept, but no batch"),
    EditRule("data.volume", "atCheckpoint", "volumes are mounted when a pod starts"),
    EditRule("optimizer", "frozen", "the finished steps would have been different"),
    EditRule("objective", "frozen", "the finished steps would have been different"),
    EditRule("average", "frozen", "the checkpoints hold its state"),
    EditRule("trainer", "frozen", "the finished steps would have been different"),
    EditRule("trainer.steps", "atCheckpoint", "if the finished steps would have been the same (see below)"),
    EditRule(
        "trainer.microbatches", "atCheckpoint", f"changes only in how many parts a batch is computed; {_ROUNDING}"
    ),
    EditRule("trainer.remat", "atCheckpoint", f"changes only what is recomputed; {_ROUNDING}"),
    EditRule("trainer.unroll", "atCheckpoint", f"changes only the loop over blocks; {_ROUNDING}"),
    EditRule(
        "trainer.offload", "atCheckpoint", "changes only in which memory arrays are between two updates, and no number"
    ),
    EditRule("trainer.attention", "atCheckpoint", f"computes the same numbers up to rounding; {_ROUNDING}"),
    EditRule("trainer.determinism", "atCheckpoint", f"changes only the order of additions on GPUs; {_ROUNDING}"),
    EditRule("trainer.evaluation", "atCheckpoint", "changes no step"),
    EditRule("trainer.logEverySteps", "atCheckpoint", "the trainer reads it when it starts"),
    EditRule("checkpoint", "atCheckpoint", "the trainer reads it when it starts"),
    EditRule("checkpoint.root", "frozen", "a root always belongs to the same run"),
    EditRule("export", "atCheckpoint", "the trainer reads it when it starts; an export changes no step"),
    EditRule("recovery", "atCheckpoint", "the trainer and its pods are created with it"),
    EditRule(
        "recovery.maxRestarts",
        "live",
        "used in the operator's count at once, in that of the JobSet with the next attempt",
    ),
    EditRule("recovery.elastic", "live", "only the operator uses it"),
    EditRule("recovery.badNodes", "live", "only the operator uses it"),
    EditRule("recovery.straggler.action", "live", "only the operator uses it"),
    EditRule(
        "recovery.divergence.spike.windowSteps",
        "frozen",
        "the checkpoints hold that many losses; spike must not be added or removed",
    ),
    EditRule("scheduling", "atCheckpoint", "pods are placed once"),
    EditRule("scheduling.queue", "atCheckpoint", "an attempt enters a queue once; the next attempt enters the new one"),
    EditRule("managedBy", "frozen", "two clusters would train the run"),
    EditRule("telemetry", "atCheckpoint", "the trainer opens its port when it starts"),
    EditRule("telemetry.statusIntervalSeconds", "live", "the operator reads at this interval", starts_again=False),
    EditRule("budget", "live", "the operator compares it with what was used; a raised one goes on", starts_again=False),
    EditRule("plan", "live", "the operator plans before an attempt", starts_again=False),
    EditRule("suspend", "live", "saves and releases the hardware, or continues", starts_again=False),
    EditRule("ttlSecondsAfterFinished", "live", "the operator counts from the end of the run", starts_again=False),
)


@lru_cache(maxsize=4096)  # paths of recorded values come from a status, so the number is not bounded
def edit_rule_of(path: str) -> EditRule | None:
    """The row that applies to a field: the matching row with the longest path. None if no row matches."""
    parts = path.split(".")
    found = [row for row in EDIT_RULES if _speaks_for(row.path.split("."), parts)]
    return max(found, key=lambda row: row.path.count("."), default=None)


def _speaks_for(row: list[str], path: list[str]) -> bool:
    return len(row) <= len(path) and all(mine in (theirs, "*") for mine, theirs in zip(row, path, strict=False))


def class_of(path: str) -> EditClass:
    """The class of a field. A field without a row counts as one that needs new pods."""
    row = edit_rule_of(path)
    return row.edit if row is not None else "atCheckpoint"


def starts_again(path: str) -> bool:
    """Whether a stopped run starts again when the field is edited."""
    row = edit_rule_of(path)
    return row is None or row.starts_again


@dataclass(frozen=True)
class Leaf:
    """A field that is not a section: a number, a string, a list, a map, or a kind without members."""

    path: str
    default: Any
    """Its default as JSON; None if it has none."""
    optional: bool
    """Whether it may be absent in the stored object although its section is present."""


@cache
def leaves_of(model: type[ApiModel], path: str = "") -> tuple[Leaf, ...]:
    """All leaves below a class, in the order of the document."""
    return tuple(_leaves(model, path))


def _leaves(model: type[ApiModel], path: str) -> Iterator[Leaf]:
    for name, field in fields_by_name(model).items():
        child = f"{path}.{name}".removeprefix(".")
        sections = [section for section in sections_of(field.annotation) if section.model_fields]
        if len(sections) > 1:  # the families: which fields there are, and with which defaults, depends on the family
            paths = dict.fromkeys(leaf.path for section in sections for leaf in leaves_of(section, child))
            yield from (Leaf(leaf, None, True) for leaf in paths)
            continue
        if sections:
            yield from leaves_of(sections[0], child)
            continue
        default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, ApiModel):
            default = default.document()
        yield Leaf(child, default, not field.is_required() and default is None)


def section_of(annotation: Any) -> type[ApiModel] | None:
    """The class of a field that is an object, required or optional; None for other fields."""
    return next(sections_of(annotation), None)


def sections_of(annotation: Any) -> Iterator[type[ApiModel]]:
    """The classes of a field that is an object: one, or those of the families."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        yield annotation
    if get_origin(annotation) is Annotated:
        yield from sections_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from sections_of(part)
