"""The pictures of the guides, drawn by the tests from what they saw.

`make pictures` draws them anew: it sets HALCYON_PICTURES to the folder, and a test that has seen what a picture shows writes it there.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "guides"


def keep(name: str, svg: str) -> None:
    """Write a picture, if that was asked for."""
    if folder := os.environ.get("HALCYON_PICTURES"):
        (Path(folder) / f"{name}.svg").write_text(svg, encoding="utf-8")
