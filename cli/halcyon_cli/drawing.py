"""Pictures drawn by matplotlib, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from halcyon_api.package import install
from halcyon_cli.output import Rejected

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class NoPicture(Rejected):
    """Matplotlib is not installed."""


def svg_of(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """The text of the SVG file of a picture. Text in it stays text, also with a $, and equal pictures give equal files.

    Args:
        draw: Draws into the figure.
        size: Width and height, in inches.

    Raises:
        NoPicture: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPicture(f"a picture of curves needs matplotlib; install it with {install('report')}") from None
    with mpl.rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "halcyon", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
