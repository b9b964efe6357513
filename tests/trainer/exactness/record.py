"""What the tests of exactness measured: `results.json`, from which docs/exactness.md is made.

``pytest --exactness`` lets each of these tests write its figure after it has passed. Without the option they only pass
or fail.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Literal

Table = Literal[
    "logits", "gradients", "import", "export", "first steps", "losses", "rule paper", "rule mesh", "rule resume",
    "rule accumulation",
    "rule hosts", "rule float64",
]  # fmt: skip
"""The tests. Figures are the largest error, as a part of the largest value, of ``logits`` and ``gradients``; the number
of tensors with the same bits of ``import`` and ``export``; the largest error of ``first steps``, as a part of the
number; the largest difference of ``losses``. The tables of update rules are for docs/reference/optimizers.md
(`tests.trainer.optim.page`)."""

RESULTS = Path(__file__).parent / "results.json"

Results = dict[str, dict[str, float]]
"""Case → figure, by table."""


def read(path: Path = RESULTS) -> Results:
    """All figures; empty if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(table: Table, case: str, figure: float, path: Path = RESULTS) -> None:
    """Set one figure, with two digits. Several processes may write."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        found: Results = json.loads(file.read() or "{}")
        found.setdefault(table, {})[case] = float(f"{figure:.1e}") if isinstance(figure, float) else figure
        ordered = {name: dict(sorted(cases.items())) for name, cases in sorted(found.items())}
        file.truncate(0)
        file.write(json.dumps(ordered, indent=1) + "\n")
