"""Fingerprints of everything that decides the numbers of a run: they must be equal when the run continues from a
checkpoint.

The mesh, the microbatches, the image, the remat policy and the recovery settings may change between attempts: they
decide where and how the same numbers are computed. The number of steps has a fingerprint because most schedules end
with it; `halcyon_api.edits.steps` decides whether it may change nevertheless.
`differences` names the fields that differ from those of the checkpoint.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from halcyon.host.roots import ways_out
from halcyon_api.checkpoint_documents import Fingerprints
from halcyon_api.training_run import TrainingRunSpec

DATA_FIELDS = ("sources", "mixture", "order", "validation", "attendAcrossDocuments")
ADAPTER = "spec.adapter"
"""A section that only the runs with an adapter have."""
TRAINER_FIELDS = ("steps", "batchSize", "sequenceLength", "batchSchedule", "seed", "precision", "dropout")
_WHOLE = ("model", "tokenizer", "optimizer", "objective", "adapter", "average")
"""Sections all of whose fields decide numbers."""
_ABSENT = object()
_MOST = 5


def fingerprints(spec: TrainingRunSpec, *, data: Mapping[str, Any]) -> Fingerprints:
    """Fingerprint each section that decides the run's numbers.

    Args:
        spec: The run's spec.
        data: Description of the dataset's contents: hashes, counts, lengths.
    """
    document = spec.document()
    sections: dict[str, Any] = {f"spec.{name}": document[name] for name in _WHOLE if name in document}
    for name, fields in (("data", DATA_FIELDS), ("trainer", TRAINER_FIELDS)):
        sections[f"spec.{name}"] = {field: value for field, value in document[name].items() if field in fields}
    sections["data"] = dict(data)
    if spec.origin is not None and spec.origin.data_position is not None:
        sections["spec.from"] = {name: document["from"][name] for name in ("step", "dataPosition")}
    return fingerprints_of(sections)


def fingerprints_of(sections: Mapping[str, Any]) -> Fingerprints:
    """Fingerprints of sections by name."""
    return Fingerprints(
        sections={name: _sha256(section) for name, section in sections.items()}, documents=dict(sections)
    )


def planned_steps(fingerprints: Fingerprints) -> int | None:
    """``spec.trainer.steps`` of the run that made these fingerprints; None if they do not contain it."""
    trainer = fingerprints.documents.get("spec.trainer")
    return trainer.get("steps") if isinstance(trainer, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def with_steps(fingerprints: Fingerprints, steps: int) -> Fingerprints:
    """The fingerprints of the same run with another number of steps."""
    trainer = {**fingerprints.documents["spec.trainer"], "steps": steps}
    return fingerprints_of({**fingerprints.documents, "spec.trainer": trainer})


def _sha256(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(now: Fingerprints, then: Fingerprints) -> tuple[str, ...]:
    """Name every field that differs.

    Args:
        now: Fingerprints of the present run. Sections have the names of the document, such as ``spec.model``.
        then: Fingerprints of the checkpoint.

    Returns:
        Clauses such as ``spec.model.numHiddenLayers is 6 but was 4``, in the order of the fields; empty when
        nothing differs.
    """
    clauses = []
    for section in sorted(set(now.sections) | set(then.sections)):
        if now.sections.get(section) == then.sections.get(section):
            continue
        changed = [
            f"{path} is {_value(new)} but was {_value(old)}"
            for path, new, old in _walk(
                section, now.documents.get(section, _ABSENT), then.documents.get(section, _ABSENT)
            )
        ]
        clauses += changed or [f"{section} has another fingerprint"]
    return tuple(clauses)


def sentence(clauses: tuple[str, ...], step: int, root: str) -> str:
    """The error message for the user."""
    more = f", and {len(clauses) - _MOST} more fields differ" if len(clauses) > _MOST else ""
    return (
        f"the checkpoint at step {step} in {root} was made with another configuration: "
        f"{'; '.join(clauses[:_MOST])}{more}; {ways_out(root)}"
    )


def _walk(path: str, new: Any, old: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(new, dict) and isinstance(old, dict):
        for key in sorted(set(new) | set(old)):
            yield from _walk(f"{path}.{key}", new.get(key, _ABSENT), old.get(key, _ABSENT))
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        for index, (left, right) in enumerate(zip(new, old, strict=True)):
            yield from _walk(f"{path}[{index}]", left, right)
    elif new is _ABSENT or old is _ABSENT or (type(new), new) != (type(old), old):
        yield path, new, old


def _value(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
