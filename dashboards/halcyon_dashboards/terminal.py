"""Terminal output as a picture (SVG)."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType


def as_svg(shown: RenderableType, title: str, columns: int) -> str:
    """Return the output on a terminal with `columns` columns as SVG; deterministic."""
    console = Console(record=True, width=columns, file=StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False)
    console.print(shown)
    return console.export_svg(title=title, unique_id="halcyon")
