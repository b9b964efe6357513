"""Parametrized tests of which `make test` runs a few cases, and `make test-all` every case."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def few_of(cases: Iterable[Any], few: Collection[Any]) -> list[Any]:
    """The cases as parameters of a test. Those that are not in `few` have the marker `variant`.

    Raises:
        ValueError: One of `few` is not a case.
    """
    listed = list(cases)
    if unknown := [case for case in few if case not in listed]:
        raise ValueError(f"no such case: {unknown}")
    return [pytest.param(case, marks=() if case in few else pytest.mark.variant) for case in listed]
