"""Run documents for the tests of the contract."""

from __future__ import annotations

from typing import Any

from halcyon_api.reading import parse_run
from halcyon_api.training_run import TrainingRunSpec
from tests.document_changes import changed
from tests.families import SMALL

MINIMAL: dict[str, Any] = {
    "apiVersion": "halcyon.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "small"},
    "spec": {
        "accelerator": {"type": "cpu", "topology": "1x2", "slices": 2},
        "model": {**SMALL},
        "data": {"sources": [{"name": "python", "stdlib": {}}]},
        "trainer": {"steps": 10, "batchSize": 8, "sequenceLength": 32},
        "checkpoint": {"root": "file:///checkpoints/small"},
    },
}


def document(**changes: Any) -> dict[str, Any]:
    """The minimal run with changes.

    Keys are paths such as ``spec__trainer__steps``; the value ``...`` removes the field.
    """
    return changed(MINIMAL, {path.replace("__", "."): value for path, value in changes.items()})


def minimal_spec(**changes: Any) -> TrainingRunSpec:
    """The spec of the minimal run with changes, as `document` takes them."""
    return parse_run(document(**changes)).spec
