"""`python -m tests.operator.threats`: writes the rows of threats.yaml into the table of docs/design/threat-model.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "design" / "threat-model.md"
ROWS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_BEGIN, _END = "<!-- threats: begin; made by `make generate` -->\n", "<!-- threats: end -->"


def proofs(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """File and name of each test of a row."""
    return ((f"tests/{file}", test) for file, tests in row["proved"].items() for test in tests)


def with_table(page: str) -> str:
    """The page with the table of the present rows."""
    before, _, rest = page.partition(_BEGIN)
    table = [
        f"| {number} | {row['threat']} | {row['defence']} | {', '.join(f'`{file}::{test}`' for file, test in proofs(row))} |"
        for number, row in enumerate(ROWS, 1)
    ]
    lines = ["| # | threat | defence | proved by |", "|---|---|---|---|", *table]
    return before + _BEGIN + "\n".join(lines) + "\n" + _END + rest.partition(_END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
