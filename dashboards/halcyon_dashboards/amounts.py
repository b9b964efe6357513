"""Formats values for people."""

from __future__ import annotations

import math


def amount(value: float, unit: str) -> str:
    """Format a value with one of Grafana's units, such as `s`, `bytes` or `percentunit`."""
    if not math.isfinite(value):
        return str(value)
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s" and abs(value) >= 120:
        return f"{value / 3600:.3g} h" if abs(value) >= 7200 else f"{value / 60:.3g} min"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and unit != "none":
            return f"{value / size:.3g} {prefix}{'B' if unit == 'bytes' else ''}".strip()
    return f"{value:.3g}" + {"ops": " /s", "reqps": " /s", "bytes": " B"}.get(unit, "")
