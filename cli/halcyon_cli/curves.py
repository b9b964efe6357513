"""The curves of runs as one SVG picture, drawn by matplotlib: losses, gradient norm, learning rate and speed over the
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.history.reading import History
from halcyon_cli.drawing import svg_of
from halcyon_cli.history_report import labels, series, together

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_POINTS = 200
"""From this number of points on, a curve also has its moving mean, and the points themselves are pale."""
_PANELS = (("loss", "nats per token"), ("gradientNorm", ""), ("learningRate", ""), ("tokensPerSecond", ""))
_TITLES = {
    "loss": "loss",
    "gradientNorm": "gradient norm",
    "learningRate": "learning rate",
    "tokensPerSecond": "tokens per second",
}
_SIZE = (10.0, 6.4)


def draw_curves(histories: Sequence[History]) -> str:
    """The text of the SVG file.

    A run is one colour. In the panel of the losses, lines are training losses and points are held-out losses; pale
    vertical lines are restarts, at the steps where a process group resumed.

    Raises:
        Rejected: matplotlib is not installed.
    """
    return svg_of(lambda figure: _panels(figure, histories), _SIZE)


def _panels(figure: Figure, histories: Sequence[History]) -> None:
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (name, unit) in zip(panels.flat, _PANELS, strict=True):
        _panel(axes, histories, name)
        axes.set_title(_TITLES[name], loc="left")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.25)
    for axes in panels[1]:
        axes.set_xlabel("step")
    if len(histories) > 1 or together(histories[0]):
        panels[0][0].legend(frameon=False)
    figure.suptitle(" / ".join(dict.fromkeys(history.run for history in histories)), x=0.01, ha="left", weight="bold")


def _panel(axes: Axes, histories: Sequence[History], name: str) -> None:
    for number, (label, history) in enumerate(zip(labels(histories), histories, strict=True)):
        colour = f"C{number}"
        steps, values = series(history.steps, name)
        many = len(values) >= MANY_POINTS
        drawn = label if name == "loss" and not many else None
        axes.plot(steps, values, color=colour, alpha=0.25 if many else 1.0, linewidth=0.8 if many else 1.3, label=drawn)
        if many:
            axes.plot(steps, moving_mean(values), color=colour, linewidth=1.5, label=label if name == "loss" else None)
        if name == "loss":
            held_out = together(history)
            axes.plot(
                *series(held_out, "loss"),
                "o",
                color=colour,
                markersize=3.5,
                label=f"{label}, held out" if held_out else None,
            )
        for group in history.groups[1:]:
            axes.axvline(group.group.resumed_step, color=colour, alpha=0.25, linewidth=0.8, linestyle=":")
    positive: Callable[[Any], bool] = lambda history: all(value > 0 for value in series(history.steps, name)[1])  # noqa: E731
    if name == "gradientNorm" and any(history.steps for history in histories) and all(map(positive, histories)):
        axes.set_yscale("log")


def moving_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, over a window of a fiftieth of all."""
    window = max(2, len(values) // 50)
    means: list[float] = []
    total = 0.0
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        means.append(total / min(window, index + 1))
    return means
