"""The command ``halcyon show schedule``: what changes from step to step, as curves in the terminal or in an SVG
file.
"""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from halcyon.commands.errors import console, report_errors
from halcyon.commands.options import Defaults, Document, Json, Overrides, valid_training
from halcyon.commands.views.picture import write_picture
from halcyon_api.spec.optimizer import MOMENTUM
from halcyon_api.training_run import TrainingRunSpec

if TYPE_CHECKING:
    import numpy as np

_WIDTH, _HEIGHT = 72, 8
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_PLAIN = " ...::::#"
"""In the place of `_EIGHTHS` where the terminal has no Unicode."""


def schedule(
    document: Document,
    defaults: Defaults = None,
    overrides: Overrides = None,
    json: Json = False,
    svg: Annotated[Path | None, typer.Option(help="Also write the curves as an SVG picture to this file.")] = None,
) -> None:
    """Show the learning rate, weight decay, momentum, batch size and sequence length of a run by step, without a
    device.
    """
    with report_errors(document):
        spec = valid_training(document, defaults, overrides).spec
        steps, curves = _curves(spec)
        if json:
            drawn = {"steps": steps.tolist(), **{name: values.tolist() for name, values in curves.items()}}
            sys.stdout.write(f"{json_format.dumps(drawn)}\n")
        if json and svg is None:
            return
        marks = _EIGHTHS if svg is not None or _has_blocks(sys.stdout.encoding) else _PLAIN
        parts: list[Text] = []
        for name, values in curves.items():
            if values.min() == values.max():
                parts.append(Text(f"{name}: {_number(values[0])} at each step\n"))
            else:
                parts.append(Text(f"{name}\n{_drawn(values, spec.trainer.steps, marks)}\n", style="green"))
        if not json:
            console().print(*parts, sep="\n", highlight=False)
        if svg is not None:
            write_picture(Group(*parts), svg, "--svg")


def _curves(spec: TrainingRunSpec) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps of the run, counted from 1, and the values at these steps, by name: all steps of a short run, else some,
    and the last.
    """
    import jax
    import numpy as np

    jax.config.update("jax_platforms", "cpu")
    from halcyon.data.batch_schedule import build_schedule
    from halcyon.optim import learning_rate, update_arguments

    optimizer, trainer = spec.optimizer, spec.trainer
    done = np.unique(np.linspace(0, trainer.steps - 1, min(trainer.steps, 4 * _WIDTH)).round().astype(np.int32))
    rates = jax.jit(jax.vmap(learning_rate(optimizer, trainer.steps, trainer)))(done)
    others = jax.jit(jax.vmap(update_arguments(optimizer, trainer.steps)))(done)
    constants = {"weight_decay": optimizer.weight_decay}
    if (member := MOMENTUM.get(optimizer.kind)) is not None:
        constants["momentum"] = getattr(optimizer.value, member)
    curves = {"learning rate": np.asarray(rates)}
    for name, constant in constants.items():
        curves[name.replace("_", " ")] = np.asarray(others[name]) if name in others else np.full(len(done), constant)
    sizes = build_schedule(trainer)
    curves["batch size"] = np.array([sizes.batch_size(int(step)) for step in done])
    curves["sequence length"] = np.array([sizes.sequence_length(int(step)) for step in done])
    return done + 1, curves


def _has_blocks(encoding: str | None) -> bool:
    """Whether a terminal of this encoding shows `_EIGHTHS`."""
    try:
        _EIGHTHS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _drawn(values: np.ndarray, steps: int, marks: str) -> str:
    """A curve of characters, with its largest and smallest value at the left, and the steps below.

    Args:
        values: The values of the drawn steps, [steps].
        steps: Steps of the run.
        marks: Characters for 0 to 8 eighths of a line.
    """
    import numpy as np

    columns = min(_WIDTH, len(values))
    places = np.linspace(0, len(values) - 1, columns).round().astype(int)
    low, high = float(values.min()), float(values.max())
    # The smallest value still has one eighth of a line, so that the curve is never empty.
    levels = 1 + np.round((values[places] - low) / (high - low) * (8 * _HEIGHT - 1)).astype(int)
    lines = ["".join(marks[min(8, max(0, level - 8 * line))] for level in levels) for line in reversed(range(_HEIGHT))]
    labels = [_number(high), *[""] * (_HEIGHT - 2), _number(low)]
    margin = max(map(len, labels))
    drawn = [f"{label:>{margin}} {line}".rstrip() for label, line in zip(labels, lines, strict=True)]
    last = f"step {steps:,}"
    return "\n".join([*drawn, f"{'':>{margin}} 1{last:>{max(1, columns - 1)}}"])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"
