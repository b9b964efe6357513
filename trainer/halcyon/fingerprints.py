"""What must be the same for a run to go on from a checkpoint: everything that decides its numbers, and nothing else.

The mesh, the microbatches, the image, remat and the recovery settings may change between attempts: they say where and how the same
numbers are computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from halcyon_api.checkpoint_documents import Fingerprints
from halcyon_api.training_run import FROZEN_DATA_FIELDS, FROZEN_TRAINER_FIELDS, TrainingRunSpec


def fingerprints(spec: TrainingRunSpec, *, data: Mapping[str, Any]) -> Fingerprints:
    """Fingerprint each section that decides the run's numbers.

    Args:
        spec: The run's spec.
        data: What the data set says of its contents: hashes, counts, lengths.
    """
    document = spec.document()
    for kind in document["model"].values():
        kind.pop("remat", None)
    trainer = {name: value for name, value in document["trainer"].items() if name in FROZEN_TRAINER_FIELDS}
    sections: dict[str, Any] = {
        "spec.model": document["model"],
        "spec.tokenizer": document["tokenizer"],
        "spec.data": {name: value for name, value in document["data"].items() if name in FROZEN_DATA_FIELDS},
        "spec.optimizer": document["optimizer"],
        "spec.trainer": trainer,
        "data": dict(data),
    }
    return Fingerprints(sections={name: _sha256(section) for name, section in sections.items()}, documents=sections)


def _sha256(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
