"""The tables of the operator's reference: ``python -m halcyon_operator.run.reference PAGE``.

They are generated from the metrics and from the rows of `model.reasons`. A test compares the committed page with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from halcyon_operator.model.reasons import STALLS, STARTS
from halcyon_operator.run.metrics import Metrics

_STANDARD = ("process_", "python_")
"""Prefixes of the metrics that `prometheus_client` adds by itself."""
_SUFFIX = {"counter": "_total", "info": "_info"}


def tables() -> dict[str, str]:
    """The tables, by the name in their marks. A metric has the help text that a scrape has."""
    metrics = sorted(
        (f"`{metric.name}{_SUFFIX.get(metric.type, '')}`", metric.type, metric.documentation)
        for metric in Metrics().registry.collect()
        if not metric.name.startswith(_STANDARD)
    )
    return {
        "reasons of a start": _table(
            ("reason of `Ready`", "check"), ((f"`{name}`", check) for name, check in STARTS.items())
        ),
        "reasons of a stop": _table(
            ("reason", "what happened", "what to do"), ((f"`{name}`", *told) for name, told in STALLS.items())
        ),
        "metrics": _table(("metric", "type", "meaning"), metrics),
    }


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [" | ".join(row) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(head) + "|", *(f"| {line} |" for line in lines[1:])]) + "\n"


def written(page: str) -> str:
    """The page with each present table between its two marks."""
    for name, table in tables().items():
        begin = f"<!-- {name}: begin; made by `make generate` -->\n"
        before, rest = page.split(begin)
        page = before + begin + table + rest[rest.index(f"<!-- {name}: end -->") :]
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
