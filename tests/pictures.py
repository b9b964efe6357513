"""The pictures of the guides, which the tests draw from their results.

`make pictures` draws them again: it sets HALCYON_PICTURES to the folder, and each test that has a picture writes it
there.
"""

from __future__ import annotations

import os
import re
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType

FOLDER = Path(__file__).parents[1] / "docs" / "guides"


_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""A font that the frame of Rich loads from another host. Without it, the browser takes its own font of fixed width."""


def as_svg(shown: RenderableType, title: str, columns: int) -> str:
    """The output on a terminal with `columns` columns as SVG; deterministic, and without requests to other hosts."""
    console = Console(
        record=True, width=columns, file=StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    console.print(shown)
    return _FONT.sub("", console.export_svg(title=title, unique_id="halcyon"))


def keep(name: str, svg: str) -> None:
    """Write a picture if HALCYON_PICTURES is set."""
    if folder := os.environ.get("HALCYON_PICTURES"):
        (Path(folder) / f"{name}.svg").write_text(svg, encoding="utf-8")


def keep_screen(name: str, png: bytes) -> None:
    """Write the picture of a screen if HALCYON_PICTURES is set."""
    if folder := os.environ.get("HALCYON_PICTURES"):
        (Path(folder) / f"{name}.png").write_bytes(png)
