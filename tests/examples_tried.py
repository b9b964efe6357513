"""How many examples a property is tried with: few in `make test`, as many as ever in `make test-all`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy


def tried_with(few: int, many: int) -> pytest.MarkDecorator:
    """Let a test have the argument `examples`: `few`, and as a variant `many`."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.variant)])


def holds_for(examples: int, check: Callable[..., None], *strategies: SearchStrategy[Any]) -> None:
    """Check that a property holds for so many examples.

    Raises:
        AssertionError: it does not for one of them, which is shown.
    """
    settings(max_examples=examples, suppress_health_check=list(HealthCheck))(given(*strategies)(check))()
