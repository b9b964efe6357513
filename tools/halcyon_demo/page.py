"""The page of the demo: what it printed, and one picture of both runs. Pure: takes values, returns texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halcyon_api.counting import counted
from halcyon_cli.curves import svg_of
from halcyon_demo.comparison import Comparison, Loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLIP = "bit flipped"
"""Title of the mark of a bit that the demo changed."""
_SIZE = (9.0, 3.4)
_WIDE: dict[str, Any] = {"color": "#f4b183", "linewidth": 6, "solid_joinstyle": "round", "solid_capstyle": "round"}
_NARROW: dict[str, Any] = {"color": "#1f3864", "linewidth": 1.1}


@dataclass(frozen=True)
class Mark:
    """A fault in the picture.

    Attributes:
        step: Steps done when it was injected.
        title: What it was.
    """

    step: int
    title: str


def picture(
    disturbed: Sequence[Loss], undisturbed: Sequence[Loss], marks: Sequence[Mark], comparison: Comparison
) -> str:
    """The text of an SVG file: the losses of both runs over the steps, and where the disturbed one was hit.

    Raises:
        Rejected: matplotlib is not installed.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for losses, style, label in (
            (disturbed, _WIDE, "pods killed, operator deleted"),
            (undisturbed, _NARROW, "undisturbed"),
        ):
            # Each process group is a line of its own: repeated steps are drawn again, at the same place.
            for group in dict.fromkeys(loss.group for loss in losses):
                mine = [loss for loss in losses if loss.group == group]
                axes.plot([loss.step for loss in mine], [loss.value for loss in mine], label=label, **style)
                label = None
        for mark in marks:
            axes.axvline(mark.step, color="#c00000", linewidth=1.2)
            axes.annotate(
                mark.title,
                (mark.step, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                color="#c00000",
            )
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats per token")
        axes.set_title(_caption(comparison, marks), loc="left", weight="bold")
        axes.legend(frameon=False, loc="lower left")
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)

    return svg_of(draw, _SIZE)


def _caption(comparison: Comparison, marks: Sequence[Mark]) -> str:
    flips = sum(mark.title == FLIP for mark in marks)
    difference = "0" if comparison.identical else f"in {counted(len(comparison.differences), 'place')}"
    happened = ", ".join(
        (
            counted(len(comparison.groups) - 1, "restart"),
            counted(flips, "flipped bit"),
            counted(comparison.repeated, "repeated step"),
        )
    )
    return f"difference {difference} in {counted(comparison.steps, 'step')}; {happened}"


def page(printed: str, picture_name: str) -> str:
    """The Markdown of the page.

    Args:
        printed: What the demo printed, without its preparations.
        picture_name: File of the picture, beside the page.
    """
    lines = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return (
        "# The demo\n\n"
        '<!-- written by `make demo ARGS="--picture docs/demo.svg"`; do not edit -->\n\n'
        "`make demo` starts a real Kubernetes on this machine, and trains a small model on two slices of two devices.\n"
        "A bit flips in the memory of a process, a pod is evicted and replaced alone, a trainer killed by SIGKILL\n"
        "starts again in its pod, and the operator is deleted. Then the same document trains again without faults,\n"
        "and all losses are compared. A third run shows what the faults cost where each restart replaces all pods.\n\n"
        f"![Losses of both runs, which lie on each other]({picture_name})\n\n"
        f"```text\n{lines}\n```\n"
    )
