"""The table of metrics in the operator's reference: ``python -m halcyon_operator.run.metrics_reference PAGE``.

It is generated from the metrics themselves. A test compares the committed page with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from halcyon_operator.run.metrics import Metrics

_BEGIN, _END = "<!-- metrics: begin; made by `make generate` -->\n", "<!-- metrics: end -->"
_STANDARD = ("process_", "python_")
"""Prefixes of the metrics that `prometheus_client` adds by itself."""
_SUFFIX = {"counter": "_total", "info": "_info"}


def table() -> str:
    """One row for each metric of the operator, with the help text that a scrape has."""
    rows = [
        f"| `{metric.name}{_SUFFIX.get(metric.type, '')}` | {metric.type} | {metric.documentation} |"
        for metric in Metrics().registry.collect()
        if not metric.name.startswith(_STANDARD)
    ]
    return "\n".join(["| metric | type | meaning |", "|---|---|---|", *sorted(rows)]) + "\n"


def written(page: str) -> str:
    """The page with the present table between its two marks."""
    before, rest = page.split(_BEGIN)
    return before + _BEGIN + table() + _END + rest.split(_END)[1]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
