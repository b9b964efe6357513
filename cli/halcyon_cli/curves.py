"""The curves of runs as one SVG picture, drawn by matplotlib: losses, gradient norm, learning rate and speed over the
steps. In a page, a script shows the step and the values below the pointer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from halcyon.commands.views.templates import rendered
from halcyon.telemetry.history.reading import History
from halcyon_api.package import install
from halcyon_api.printable import markup
from halcyon_cli.history_report import labels, series, together
from halcyon_cli.output import Rejected

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


MANY_POINTS = 200
"""From this number of points on, a curve also has its moving mean, and the points themselves are pale."""
SCRIPT = files("halcyon_cli").joinpath("pointer.js").read_text(encoding="utf-8")
"""The script of a page with curves. It makes no requests."""
TITLES = {
    "loss": "loss",
    "gradientNorm": "gradient norm",
    "learningRate": "learning rate",
    "tokensPerSecond": "tokens per second",
    "reward": "reward",
    "mismatchMax": "greatest mismatch of a token, in nats",
}
"""The curves of a run, by the names of their numbers in its history. The first four are always there."""
_SIZE = (10.0, 6.4)
_POINTS_PER_INCH = 72.0
_COLOURS = 10
"""Colours of matplotlib's cycle, C0 to C9."""


@dataclass(frozen=True)
class _Curve:
    """The values of a curve as they are drawn."""

    name: str
    colour: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass
class _Panel:
    """A panel of the picture, with its curves."""

    axes: Axes
    name: str
    curves: list[_Curve] = field(default_factory=list[_Curve])

    def document(self) -> dict[str, Any]:
        """Its place in the SVG picture, the range of its axes, and its values; for the script."""
        width, height = (inches * _POINTS_PER_INCH for inches in _SIZE)
        box = self.axes.get_position()
        return {
            "title": TITLES[self.name],
            "left": round(box.x0 * width, 2),
            "right": round(box.x1 * width, 2),
            "top": round((1 - box.y1) * height, 2),
            "bottom": round((1 - box.y0) * height, 2),
            "steps": self.axes.get_xlim(),
            "values": self.axes.get_ylim(),
            "logarithmic": self.axes.get_yscale() == "log",
            "curves": [
                asdict(curve) | {"values": [float(f"{value:.6g}") for value in curve.values]} for curve in self.curves
            ],
        }


def draw_curves(histories: Sequence[History]) -> str:
    """The text of the SVG file.

    A run is one colour. In the panel of the losses, lines are training losses and points are held-out losses; pale
    vertical lines are restarts, at the steps where a process group resumed.

    Raises:
        NoPicture: matplotlib is not installed.
    """
    return _drawn(histories)[0]


def curves_in_page(histories: Sequence[History]) -> str:
    """The picture as a part of an HTML page that has `SCRIPT`, with the values of the curves and what the lines are;
    without matplotlib a sentence in its place.
    """
    try:
        svg, panels = _drawn(histories)
    except NoPicture as problem:
        return f'<p class="dim">{markup(str(problem))}</p>'
    windows = sorted({window for one in histories if (window := smoothing(series(one.steps, "loss")[1]))})
    documents = [panel.document() for panel in panels]
    return rendered("halcyon_cli", "curves.html", svg=inline(svg), panels=documents, windows=windows)


def inline(svg: str) -> str:
    """A picture as part of the page: without the header of a file."""
    return re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)


def _drawn(histories: Sequence[History]) -> tuple[str, list[_Panel]]:
    panels: list[_Panel] = []
    svg = svg_of(lambda figure: panels.extend(_panels(figure, histories)), _SIZE)
    return svg, panels


def _panels(figure: Figure, histories: Sequence[History]) -> list[_Panel]:
    samples = any("reward" in row for history in histories for row in history.steps)
    grid = figure.subplots(3 if samples else 2, 2, sharex=True)
    panels = [_Panel(axes, name) for axes, name in zip(grid.flat, TITLES, strict=samples)]
    for panel in panels:
        _fill(panel, histories)
        panel.axes.set_title(TITLES[panel.name], loc="left")
        panel.axes.grid(alpha=0.25)
    grid[0][0].set_ylabel("nats per token")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    if len(histories) > 1 or together(histories[0]) or smoothing(series(histories[0].steps, "loss")[1]):
        grid[0][0].legend(frameon=False)
    figure.suptitle(" / ".join(dict.fromkeys(history.run for history in histories)), x=0.01, ha="left", weight="bold")
    return panels


def _fill(panel: _Panel, histories: Sequence[History]) -> None:
    axes, name = panel.axes, panel.name
    for number, (label, history) in enumerate(zip(labels(histories), histories, strict=True)):
        colour = f"C{number % _COLOURS}"
        steps, values = series(history.steps, name)
        window = smoothing(values)
        panel.curves.append(_Curve(label, colour, steps, values))
        drawn = label if name == "loss" and not window else None
        alpha, width = (0.25, 0.8) if window else (1.0, 1.3)
        axes.plot(steps, values, color=colour, alpha=alpha, linewidth=width, label=drawn)
        if window:
            means, called = moving_mean(values), f"{label}, mean of {window}"
            panel.curves.append(_Curve(called, colour, steps, means))
            axes.plot(steps, means, color=colour, linewidth=1.5, label=called if name == "loss" else None)
        if name == "loss" and (validation := together(history)):
            called = f"{label}, held out"
            steps, values = series(validation, "loss")
            panel.curves.append(_Curve(called, colour, steps, values))
            axes.plot(steps, values, "o", color=colour, markersize=3.5, label=called)
        for group in history.groups[1:]:
            axes.axvline(group.group.resumed_step, color=colour, alpha=0.25, linewidth=0.8, linestyle=":")
    shown = [value for curve in panel.curves for value in curve.values]
    if name == "gradientNorm" and shown and min(shown) > 0:
        from matplotlib.ticker import LogFormatter

        axes.set_yscale("log")
        # The usual formatter writes formulas, which these pictures show as they are.
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def smoothing(values: Sequence[float]) -> int:
    """The number of values in each mean of the smoothed curve; 0: the curve is not smoothed."""
    return _window(values) if len(values) >= MANY_POINTS else 0


def moving_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, over a window of a fiftieth of all."""
    window = _window(values)
    means: list[float] = []
    total = 0.0
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        means.append(total / min(window, index + 1))
    return means


def _window(values: Sequence[float]) -> int:
    return max(2, len(values) // 50)
