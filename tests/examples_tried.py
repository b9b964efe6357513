"""Number of examples for a property: few in `make test`, many in `make test-all`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy


def tried_with(few: int, many: int) -> pytest.MarkDecorator:
    """Parametrize a test with `examples`: `few`, and `many` as a variant."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.variant)])


def holds_for(examples: int, check: Callable[..., None], *strategies: SearchStrategy[Any]) -> None:
    """Check that a property holds for a number of examples.

    Raises:
        AssertionError: The property does not hold for an example. Hypothesis prints the example.
    """
    settings(max_examples=examples, suppress_health_check=list(HealthCheck))(given(*strategies)(check))()
