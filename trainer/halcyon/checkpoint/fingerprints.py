"""Fingerprints of everything that decides the numbers of a run: they must be equal when the run continues from a
checkpoint.

The mesh, the microbatches, the image, the remat policy and the recovery settings may change between attempts: they
decide where and how the same numbers are computed. The number of steps has a fingerprint because most schedules end
with it; `halcyon_api.edits.steps` decides whether it may change nevertheless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from halcyon_api.checkpoint_documents import Fingerprints
from halcyon_api.training_run import TrainingRunSpec

DATA_FIELDS = ("sources", "mixture", "order", "validation", "attendAcrossDocuments")
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
        "spec.model": document["model"],
        "spec.tokenizer": document["tokenizer"],
        "spec.data": {name: value for name, value in document["data"].items() if name in DATA_FIELDS},
        "spec.optimizer": document["optimizer"],
        "spec.objective": document["objective"],
        "spec.trainer": trainer,
        "data": dict(data),
    }
    if spec.adapter is not None:
        sections[ADAPTER] = document["adapter"]
    if spec.average is not None:
        sections["spec.average"] = document["average"]
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
