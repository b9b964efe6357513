"""Changes of a document by path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def changed(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with changes by path, such as ``spec.trainer.steps``; the value ``...`` removes the field.

    Raises:
        KeyError: The field to remove does not exist.
    """
    result: dict[str, Any] = copy.deepcopy(dict(document))
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = result
        for part in parents:
            node = node.setdefault(part, {})
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return result
