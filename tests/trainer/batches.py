"""Batches by hand."""

from __future__ import annotations

from typing import Any

FIELDS = ("tokens", "targets", "weights", "segments")
NO_SEGMENTS = FIELDS[:3]


def batch_of(*arrays: Any) -> dict[str, Any]:
    """Tokens, targets, weights and perhaps segments, under their names."""
    return dict(zip(FIELDS, arrays, strict=False))
