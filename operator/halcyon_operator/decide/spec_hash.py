"""Which edits of a spec need a new attempt.

An attempt is made from one state of the spec, and its objects never change. `status.attemptSpecHash` remembers that state, without the
fields that the operator itself obeys or that can wait for the next attempt: those of class `live` (`halcyon_api.edits`).

Fields that have their default are left out, so that a newer version of the schema with more fields restarts nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic.alias_generators import to_snake

from halcyon_api.edits.classes import TABLE
from halcyon_api.spec.trainer import EVALUATION_BATCHES
from halcyon_api.training_run import TrainingRunSpec

_SCHEME = "1-"
"""Version of the hash. A hash of another version cannot be compared and counts as equal."""

RETIRED = _SCHEME + "retired"
"""In place of a hash: the attempt is stopped. It matches no spec."""


def _live() -> dict[str, Any]:
    """The live fields as pydantic leaves them out."""
    tree: dict[str, Any] = {}
    for row in TABLE:
        if row.edit == "live":
            *sections, field = map(to_snake, row.path.split("."))
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[field] = True
    return tree


_NOT_RELEVANT = _live()


def attempt_spec_hash(spec: TrainingRunSpec) -> str:
    """Hash of what an attempt is made from."""
    document = spec.model_dump(mode="json", by_alias=True, exclude=_NOT_RELEVANT, exclude_defaults=True)
    _leave_out_former_default(document, spec)
    canonical = json.dumps({key: value for key, value in document.items() if value != {}}, sort_keys=True, separators=(",", ":"))
    return _SCHEME + hashlib.sha256(canonical.encode()).hexdigest()[:40]


def _leave_out_former_default(document: dict[str, Any], spec: TrainingRunSpec) -> None:
    """Leave out a number that was the default of an earlier schema: stored objects hold it, and it means the same as no number now."""
    if spec.stage != "evaluate" and spec.trainer.evaluation.batches == EVALUATION_BATCHES:
        evaluation = document["trainer"]["evaluation"]
        del evaluation["batches"]
        if not evaluation:
            del document["trainer"]["evaluation"]


def fits(recorded: str | None, wanted: str) -> bool:
    """Whether an attempt made from the recorded state serves the wanted one."""
    return recorded is None or not recorded.startswith(_SCHEME) or recorded == wanted
