"""Fingerprints of everything that decides the numbers of a run: they must be equal when the run continues from a checkpoint.

The mesh, the microbatches, the image, the remat policy and the recovery settings may change between attempts: they decide where and how the
same numbers are computed. The number of steps has a fingerprint because most schedules end with it; `halcyon_api.edits.steps` decides
whether it may change nevertheless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from halcyon_api.checkpoint_documents import Fingerprints
from halcyon_api.spec.model import ModelSpec
from halcyon_api.training_run import TrainingRunSpec

DATA_FIELDS = ("sources", "mixture", "order", "validation", "attendAcrossDocuments")
_SPEC, _MODEL, _OBJECTIVE = "spec.", "spec.model", "spec.objective"
ADAPTER = "spec.adapter"
"""A section that only the runs with an adapter have."""
TRAINER_FIELDS = ("steps", "batchSize", "sequenceLength", "batchSchedule", "seed", "precision")


def fingerprints(spec: TrainingRunSpec, *, data: Mapping[str, Any]) -> Fingerprints:
    """Fingerprint each section that decides the run's numbers.

    Args:
        spec: The run's spec.
        data: Description of the dataset's contents: hashes, counts, lengths.
    """
    document = spec.document()
    trainer = {name: value for name, value in document["trainer"].items() if name in TRAINER_FIELDS}
    sections: dict[str, Any] = {
        _MODEL: document["model"],
        "spec.tokenizer": document["tokenizer"],
        "spec.data": {name: value for name, value in document["data"].items() if name in DATA_FIELDS},
        "spec.optimizer": document["optimizer"],
        _OBJECTIVE: document["objective"],
        "spec.trainer": trainer,
        "data": dict(data),
    }
    if spec.adapter is not None:
        sections[ADAPTER] = document["adapter"]
    if spec.average is not None:  # runs without an average keep the fingerprints of earlier versions
        sections["spec.average"] = document["average"]
    return fingerprints_of(sections)


def fingerprints_of(sections: Mapping[str, Any]) -> Fingerprints:
    """Fingerprints of sections by name."""
    return Fingerprints(sections={name: _sha256(section) for name, section in sections.items()}, documents=dict(sections))


def planned_steps(fingerprints: Fingerprints) -> int | None:
    """``spec.trainer.steps`` of the run that made these fingerprints; None if they do not contain it."""
    trainer = fingerprints.documents.get("spec.trainer")
    return trainer.get("steps") if isinstance(trainer, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def with_later_fields(fingerprints: Fingerprints, now: Fingerprints) -> Fingerprints:
    """The fingerprints of a checkpoint, with the defaults of those fields of `now`'s model that the checkpoint's version did not have.

    A default means what the model did without the field.
    """
    then, new = (each.documents.get(_MODEL) for each in (fingerprints, now))
    try:
        defaults = ModelSpec.model_validate(then).document()
        later = {
            kind: {**section, **{name: defaults[kind][name] for name in new[kind].keys() & defaults[kind].keys() - section.keys()}}  # pyright: ignore[reportOptionalSubscript]
            for kind, section in then.items()  # pyright: ignore[reportOptionalMemberAccess]
        }
    except (ValidationError, KeyError, AttributeError):  # another model, or the document of a later version
        return fingerprints
    return fingerprints_of({**fingerprints.documents, _MODEL: later}) if later != then else fingerprints


def with_moments(fingerprints: Fingerprints, now: Fingerprints) -> Fingerprints:
    """The fingerprints of a checkpoint, with the moments' type of `now` if the checkpoint's version did not record it.

    Moments then had the type of the parameters. If `now` has a wider type, they are widened when they are read, which changes no value.
    """
    trainer, new = (each.documents.get("spec.trainer") for each in (fingerprints, now))
    try:
        precision, moments = dict(trainer["precision"]), new["precision"]["moments"]  # pyright: ignore[reportOptionalSubscript]
    except (KeyError, TypeError):
        return fingerprints
    if "moments" in precision or (moments != precision.get("parameters") and moments != "float32"):
        return fingerprints
    trainer = {**trainer, "precision": {**precision, "moments": moments}}  # pyright: ignore[reportGeneralTypeIssues]
    return fingerprints_of({**fingerprints.documents, "spec.trainer": trainer})


def with_steps(fingerprints: Fingerprints, steps: int) -> Fingerprints:
    """The fingerprints of the same run with another number of steps."""
    trainer = {**fingerprints.documents["spec.trainer"], "steps": steps}
    return fingerprints_of({**fingerprints.documents, "spec.trainer": trainer})


def _sha256(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
