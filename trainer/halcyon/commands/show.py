"""The command ``halcyon show``: what a run would do, without a device.

``halcyon show run.yaml`` prints the summary of a run from its shapes alone. ``halcyon show optimizer run.yaml`` prints
the update of every parameter, ``halcyon show schedule run.yaml`` what changes from step to step, as curves.
"""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text
from typer.core import TyperGroup

from halcyon.commands.dial import show_dial
from halcyon.commands.errors import console, report_errors, report_root_errors
from halcyon.commands.options import Changes, Commands, Document, Json, StoreSettings, valid_training
from halcyon.commands.planning.vocabulary import vocabulary_of
from halcyon.commands.profile import profile_view
from halcyon.host.errors import BadConfiguration
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.optimizer import MOMENTUM
from halcyon_api.training_run import TrainingRunSpec

if TYPE_CHECKING:
    import numpy as np

    from halcyon.step.program import Program


class _OrRun(TyperGroup):
    """A group of commands in which `run` may be left out: ``halcyon show run.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command `run` before the path of a document, and before its options."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = Commands("Show what a run would do, without a device.", cls=_OrRun)


app.command("dial")(show_dial)


@app.command("run")
def show_run(
    document: Document,
    *,
    changes: Changes,
    json: Json = False,
) -> None:
    """Show the model, the optimizer state, the memory of each device, the tokens and the data of a run, in a second or
    two.

    Nothing is compiled: `halcyon plan` compiles the step, and so knows the memory of its activations.
    """
    with report_errors(document):
        run = valid_training(document, changes)
        vocabulary = vocabulary_of(run.spec.tokenizer)
        program = _program(run.spec, vocabulary.tokens)
        from halcyon.commands.views.pages import run_page
        from halcyon.commands.views.run_summary import summarize

        summary = summarize(run, program, run_mesh(run.spec), vocabulary.tokens)
        note = f"The vocabulary is assumed to have {vocabulary.tokens:,} tokens: {vocabulary.note}."
        shown = summary.document() | {"vocabulary_note": vocabulary.note or None}
        if json:
            sys.stdout.write(f"{json_format.dumps(shown)}\n")
            return
        screen = console()
        for part in (*run_page(summary), *([note] if vocabulary.note else [])):
            screen.print(part, highlight=False)


@app.command()
def optimizer(
    document: Document,
    *,
    changes: Changes,
    json: bool = False,
) -> None:
    """Show every parameter: path, shape, role, group, update rule, rate factor, weight decay and bytes of optimizer
    state.

    Nothing is compiled. A group without a parameter, and a parameter in two groups, are errors here as in the run.

    Args:
        json: Print one JSON object for each parameter.
    """
    with report_errors(document):
        spec = valid_training(document, changes).spec
        program = _program(spec, vocabulary_of(spec.tokenizer).tokens)
        from halcyon.commands.views.optimizer import overview, updates_table

        template = program.template
        rows = overview(spec.optimizer, template.model, template.optimizer_state, program.trained)
        if json:
            sys.stdout.writelines(f"{json_format.dumps(asdict(row))}\n" for row in rows)
        else:
            console().print(updates_table(rows))


@app.command()
def profile(
    root: str,
    *,
    settings: StoreSettings,
    json: Json = False,
) -> None:
    """Show a stored profile: step times, MFU, time by phase, and the processes that the others wait for.

    Args:
        root: The checkpoint root, with @STEP for the profile of a step that is not the newest.
    """
    from halcyon.host.storage.store import Store
    from halcyon.telemetry.diagnostics import PROFILES_PREFIX, profile_folders, profile_numbers
    from halcyon.weights.folder import root_place
    from halcyon.weights.root import split_step

    with report_root_errors():
        place, step = split_step(root)
        store = Store(root_place(place, settings.endpoint, settings.region))
        there = profile_folders(store)
        matching = [folder for folder in there if step is None or folder.startswith(f"{PROFILES_PREFIX}{step:012d}.")]
        numbers = profile_numbers(store, matching[-1]) if matching else {}
        if not numbers:
            steps = ", ".join(str(int(folder.removeprefix(PROFILES_PREFIX).split(".")[0])) for folder in there)
            raise BadConfiguration(f"{store.root} has no such profile; there are those of steps {steps or '(none)'}")
        if json:
            sys.stdout.write(f"{json_format.dumps(list(numbers.values()))}\n")
        else:
            console().print(profile_view(f"{store.root}/{matching[-1]}", numbers))


def _program(spec: TrainingRunSpec, vocabulary: int) -> Program:
    """The program of a run on virtual devices; nothing is compiled."""
    from halcyon.commands.planning.compiled import virtual_mesh

    mesh = virtual_mesh(spec)
    from halcyon.step.program import build_program

    return build_program(spec, vocabulary, mesh)


_WIDTH, _HEIGHT = 72, 8


@app.command()
def schedule(
    document: Document,
    *,
    changes: Changes,
    json: Json = False,
) -> None:
    """Show the learning rate, weight decay, momentum, batch size and sequence length of a run by step, without a
    device.
    """
    with report_errors(document):
        spec = valid_training(document, changes).spec
        steps, curves = _curves(spec)
        if json:
            drawn = {"steps": steps.tolist(), **{name: values.tolist() for name, values in curves.items()}}
            sys.stdout.write(f"{json_format.dumps(drawn)}\n")
            return
        parts: list[Text] = []
        for name, values in curves.items():
            if values.min() == values.max():
                parts.append(Text(f"{name}: {_number(values[0])} at each step\n"))
            else:
                parts.append(Text(f"{name}\n{_drawn(values, spec.trainer.steps)}\n", style="green"))
        console().print(*parts, sep="\n", highlight=False)


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
    rates = jax.jit(jax.vmap(learning_rate(optimizer, trainer)))(done)
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


def _drawn(values: np.ndarray, steps: int) -> str:
    """A curve of characters, with its largest and smallest value at the left, and the steps below.

    Args:
        values: The values of the drawn steps, [steps].
        steps: Steps of the run.
    """
    import numpy as np

    from halcyon.commands.views.tables import EIGHTHS, bar_lines

    columns = min(_WIDTH, len(values))
    places = np.linspace(0, len(values) - 1, columns).round().astype(int)
    low, high = float(values.min()), float(values.max())
    # The smallest value still has one eighth of a line, so that the curve is never empty.
    levels = 1 + np.round((values[places] - low) / (high - low) * (EIGHTHS * _HEIGHT - 1)).astype(int)
    lines = bar_lines(levels, _HEIGHT)
    labels = [_number(high), *[""] * (_HEIGHT - 2), _number(low)]
    margin = max(map(len, labels))
    drawn = [f"{label:>{margin}} {line}".rstrip() for label, line in zip(labels, lines, strict=True)]
    last = f"step {steps:,}"
    return "\n".join([*drawn, f"{'':>{margin}} 1{last:>{max(1, columns - 1)}}"])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"
