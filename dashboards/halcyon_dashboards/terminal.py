"""Terminal output as a picture (SVG)."""

from __future__ import annotations

import re
from io import StringIO

from rich.console import Console, RenderableType

_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""A font that the frame of Rich loads from another host. Without it, the browser takes its own font of fixed width."""


def as_svg(shown: RenderableType, title: str, columns: int) -> str:
    """Return the output on a terminal with `columns` columns as SVG; deterministic, and without requests to other hosts."""
    console = Console(record=True, width=columns, file=StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False)
    console.print(shown)
    return _FONT.sub("", console.export_svg(title=title, unique_id="halcyon"))
