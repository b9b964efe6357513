"""The pictures of the guides, which the tests draw from their results.

`make pictures` draws them again: it sets HALCYON_PICTURES to the folder, and each test that has a picture writes it there.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "guides"


def keep(name: str, svg: str) -> None:
    """Write a picture if HALCYON_PICTURES is set."""
    if folder := os.environ.get("HALCYON_PICTURES"):
        (Path(folder) / f"{name}.svg").write_text(svg, encoding="utf-8")


def keep_screen(name: str, png: bytes) -> None:
    """Write the picture of a screen if HALCYON_PICTURES is set."""
    if folder := os.environ.get("HALCYON_PICTURES"):
        (Path(folder) / f"{name}.png").write_bytes(png)
