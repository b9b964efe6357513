"""Describes the differences between a run document and the run document that made a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from halcyon_api.checkpoint_documents import Fingerprints

_ABSENT = object()
_MOST = 5


def differences(now: Fingerprints, then: Fingerprints) -> tuple[str, ...]:
    """Name every field that differs.

    Args:
        now: Fingerprints of the present run. Sections have the names of the document, such as ``spec.model``.
        then: Fingerprints of the checkpoint.

    Returns:
        Clauses such as ``spec.model.llama.layers is 6 but was 4``, in the order of the fields; empty when nothing
        differs.
    """
    clauses = []
    for section in sorted(set(now.sections) | set(then.sections)):
        if now.sections.get(section) == then.sections.get(section):
            continue
        found = [
            _clause(path, new, old)
            for path, new, old in _walk(
                section, now.documents.get(section, _ABSENT), then.documents.get(section, _ABSENT)
            )
        ]
        clauses += found or [f"{section} has another fingerprint"]
    return tuple(clauses)


def sentence(clauses: tuple[str, ...], step: int, root: str) -> str:
    """The error message for the user."""
    more = f", and {len(clauses) - _MOST} more fields differ" if len(clauses) > _MOST else ""
    return (
        f"the checkpoint at step {step} in {root} was made with another configuration: "
        f"{'; '.join(clauses[:_MOST])}{more}; set it back "
        "to go on, or give the changed run a spec.checkpoint.root of its own"
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


def _clause(path: str, new: Any, old: Any) -> str:
    if old is _ABSENT:
        return f"{path} is {_value(new)} but was not set"
    if new is _ABSENT:
        return f"{path} is not set but was {_value(old)}"
    return f"{path} is {_value(new)} but was {_value(old)}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
