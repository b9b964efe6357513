"""A function as an objective."""

from __future__ import annotations

from typing import Any


def as_objective(function: Any) -> Any:
    """The function, which needs nothing of other microbatches."""
    function.prepared = lambda model, batch: batch
    return function
