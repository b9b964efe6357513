"""Run documents for the tests of the contract."""

from __future__ import annotations

import copy
from typing import Any

MINIMAL: dict[str, Any] = {
    "apiVersion": "halcyon.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "small"},
    "spec": {
        "accelerator": {"type": "cpu", "topology": "1x2", "slices": 2},
        "model": {"llama": {"layers": 2, "hiddenSize": 64, "intermediateSize": 128, "heads": 4}},
        "data": {"sources": [{"name": "python", "stdlib": {}}]},
        "trainer": {"steps": 10, "batchSize": 8, "sequenceLength": 32},
        "checkpoint": {"root": "file:///checkpoints/small"},
    },
}


def document(**changes: Any) -> dict[str, Any]:
    """The minimal run with changes. Keys are paths such as ``spec__trainer__steps``; the value ``...`` removes the field."""
    result = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = result
        for part in parents:
            node = node.setdefault(part, {})
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return result
