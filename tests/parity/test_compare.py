"""`make parity` succeeds only if it compared a model of each family."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from tests.parity import compare


@pytest.mark.parametrize(
    ("errors", "rounding", "status"),
    [
        ({}, 0.0, True),
        ({"gpt-oss-0": 0.0, "gpt-oss-1": 0.0}, 0.0, False),
        ({"gpt-oss-0": None, "gpt-oss-1": 0.0}, 0.0, False),
        ({"gpt-oss-0": None, "gpt-oss-1": None, "llama-0": 0.0}, 0.0, True),
        ({"llama-0": 1.0}, 1e-3, True),
        ({"llama-0": 3e-4}, 1e-6, True),
        ({"llama-0": 3e-4}, 2e-4, False),
    ],
    ids=(
        "no model",
        "all equal",
        "one refused",
        "a family refused",
        "one differs",
        "one rounds worse",
        "rounding is amplified",
    ),
)
def test_parity_fails_if_a_family_was_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: dict[str, float | None], rounding: float, status: bool
) -> None:
    def differences(folder: Path) -> dict[str, float]:
        error = errors[folder.name]
        if error is None:
            raise BadConfiguration("no such model")
        return {"logits": error}

    for name in errors:
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "expected.npz", rounding=rounding)
    monkeypatch.setattr(compare, "differences", differences)
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path)])
    assert bool(compare.main()) is status
