"""The command ``halcyon data``: build token caches, and show the data that a run trains on."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from halcyon.commands.checkpoints import root_store
from halcyon.commands.errors import console as new_console
from halcyon.commands.errors import report_errors, report_root_errors
from halcyon.commands.options import AtLeast1, Changes, Commands, Document, Json, StoreSettings, print_json
from halcyon.host.errors import BadConfiguration
from halcyon.host.output import outlive_reader
from halcyon_api.counting import counted
from halcyon_api.local_roots import root_address
from halcyon_api.printable import printable
from halcyon_api.training_run import TrainingRunSpec

if TYPE_CHECKING:
    from halcyon.data.cache.ensure import Caches
    from halcyon.data.dataset import Dataset

_STOPPED = "stopped; the shards that are done are kept"

app = Commands("Build token caches, and show the data that a run trains on.")

Root = Annotated[
    str | None,
    typer.Option(help="Checkpoint root of the run instead of spec.checkpoint.root; the caches are below it."),
]


@app.command()
def build(
    document: Document,
    *,
    checkpoint_root: Root = None,
    changes: Changes,
    as_json: Json = False,
) -> None:
    """Build the token caches of a run. Continues a build that was stopped."""
    from halcyon.commands.views.sources import ledger_document, source_table

    outlive_reader()
    with report_errors(document, interrupted=_STOPPED):
        spec = _spec(document, checkpoint_root, changes)
        caches = _built(spec, Console(stderr=True) if as_json else new_console())
        notes = _notes(spec, caches)
        if as_json:
            sources = [ledger_document(name, ledger) for name, ledger in caches.ledgers.items()]
            print_json({"sources": sources, "notes": notes})
            return
        _print([source_table(caches.ledgers)], notes)


@app.command()
def show(
    document: Document,
    *,
    step: AtLeast1 = 1,
    rows: str | None = None,
    text: bool = True,
    checkpoint_root: Root = None,
    changes: Changes,
    as_json: Json = False,
) -> None:
    """Print the data of a step: sources, documents and text. Text that does not count in the loss is struck through.

    Args:
        step: The step, as the log counts it.
        rows: Rows of the batch: 3, 0:4 or : for all. Default: the first four; all with --no-text.
        text: Print the text, or only the documents that it comes from.
    """
    import numpy as np

    from halcyon.commands.views.examples import step_document, step_view
    from halcyon.data.open import inspect_dataset

    picked = _slice(("0:4" if text else ":") if rows is None else rows)
    with report_errors(document, interrupted=_STOPPED):
        spec = _spec(document, checkpoint_root, changes)
        if step > spec.trainer.steps:
            raise typer.BadParameter(
                f"the run has {counted(spec.trainer.steps, 'step')}, not {step}", param_hint="--step"
            )
        dataset, caches = inspect_dataset(spec, process=f"show/{time.time_ns()}", on_rebuild=_warn)
        chosen = np.arange(dataset.schedule.batch_size(step - 1))
        if not len(chosen[picked]):
            raise typer.BadParameter(f"{rows} is none of the {len(chosen)} rows, counted from 0", param_hint="--rows")
        notes = _notes(spec, caches, dataset)
        if as_json:
            found = step_document(dataset, caches.ledgers, step, chosen[picked], text=text)
            print_json({**found, "notes": notes})
            return
        console = new_console()
        _print([], notes)
        marked = not console.is_terminal or console.no_color
        for part in step_view(dataset, caches.ledgers, step, chosen[picked], text=text, marked=marked):
            console.print(part, soft_wrap=isinstance(part, Text))


@app.command()
def stats(
    document: Document,
    *,
    checkpoint_root: Root = None,
    changes: Changes,
    as_json: Json = False,
) -> None:
    """Print the contents of a run's sources, how often each is read, and how long its documents are."""
    from halcyon.commands.views.sources import overview, overview_document, stats_view
    from halcyon.data.open import inspect_dataset

    with report_errors(document, interrupted=_STOPPED):
        spec = _spec(document, checkpoint_root, changes)
        dataset, caches = inspect_dataset(spec, process=f"stats/{time.time_ns()}", on_rebuild=_warn)
        ledgers = caches.ledgers
        steps = spec.trainer.steps
        sources = overview(dataset, ledgers, steps)
        notes = _notes(spec, caches, dataset)
        if as_json:
            found = [overview_document(source, ledgers[source.name]) for source in sources]
            print_json({"steps": steps, "sources": found, "notes": notes})
        else:
            incomplete = [
                f"{name}: its token cache is not complete yet; all numbers are of its first "
                f"{counted(len(ledger.shards), 'shard')}"
                for name, ledger in ledgers.items()
                if not ledger.finished
            ]
            _print([*incomplete, stats_view(sources, ledgers, steps)], notes)


@app.command()
def conversations(
    output: str,
    *,
    settings: StoreSettings,
) -> None:
    """Write conversations about the Python standard library, for a first chat model: JSON Lines files, and a list of
    words.

    Args:
        output: Where to write the files: a directory, s3://BUCKET/PATH or gs://BUCKET/PATH.
    """
    from halcyon.commands.chat_data import files
    from halcyon.data.sources.failures import Unreadable

    with report_root_errors("the output"):
        try:
            contents = dict(files())
        except Unreadable as error:
            raise BadConfiguration(str(error)) from None
        store = root_store(root_address(output), settings)
        for name, content in contents.items():
            store.write(name, content)
            count = content.count(b"\n")
            sys.stdout.write(f"{store.root}/{name}: {counted(count, 'line')}\n")


def _built(spec: TrainingRunSpec, console: Console) -> Caches:
    """Build the caches of a run, or open them. Shows the progress of each source."""
    from halcyon.data.open import cache_keeper
    from halcyon_api.status.sources import Built

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}
        began = time.monotonic()  # of the current source: the sources are built one after the other

        def show(built: Built) -> None:
            nonlocal began
            now = time.monotonic()
            if built.source not in tasks:
                tasks[built.source] = progress.add_task(built.source, total=None, words="")
            seconds = max(now - began, 1e-9)
            words = (
                f"{counted(built.tokens, 'token')}, {counted(built.shards, 'shard')}  "
                f"{built.documents / seconds:,.0f} docs/s  {built.size_bytes / seconds / 1e6:.1f} MB/s  "
                f"{built.tokens / seconds:,.0f} tokens/s"
            )
            progress.update(
                tasks[built.source], words=words, total=1 if built.finished else None, completed=int(built.finished)
            )
            began = now if built.finished else began

        return cache_keeper(spec, process=f"build/{time.time_ns()}", report=show, on_rebuild=_warn).ensure()


def _notes(spec: TrainingRunSpec, caches: Caches, dataset: Dataset | None = None) -> list[str]:
    """The sentences that `halcyon.data.source_notes` finds. Its warnings are printed to standard error."""
    from halcyon.data.source_notes import source_notes, source_warnings

    for warning in source_warnings(spec, caches):
        _warn(warning)
    return [note.message for note in source_notes(caches, dataset)]


def _print(parts: Sequence[RenderableType], notes: Sequence[str]) -> None:
    console = new_console()
    for part in parts:
        console.print(part)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _warn(sentence: str) -> None:
    sys.stderr.write(f"warning: {printable(sentence)}\n")


def _slice(words: str) -> slice:
    """Parse the rows that the command line names.

    Raises:
        BadParameter: The words name no rows.
    """
    match = re.fullmatch(r"(\d*):(\d*)|(\d+)", words)
    if match is None:
        raise typer.BadParameter(
            f"{words!r} names no rows; give one such as 3, some such as 0:4, or : for all", param_hint="--rows"
        )
    begin, end, row = (int(part) if part else None for part in match.groups())
    return slice(begin, end) if row is None else slice(row, row + 1)


def _spec(document: Path, checkpoint_root: str | None, changes: Changes) -> TrainingRunSpec:
    from halcyon.run.context import resolve_context
    from halcyon.run.data import checked

    return checked(resolve_context(document, {}, checkpoint_root=checkpoint_root, **changes.arguments)).run.spec
