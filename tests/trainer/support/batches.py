"""Batches from given arrays."""

from __future__ import annotations

from typing import Any

FIELDS = ("tokens", "targets", "weights", "segments")
NO_SEGMENTS = FIELDS[:3]


def batch_of(*arrays: Any) -> dict[str, Any]:
    """A batch of tokens, targets, weights and, optionally, segments, by name."""
    return dict(zip(FIELDS, arrays, strict=False))
