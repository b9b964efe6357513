"""The command ``halcyon data``: build token caches, and look at what a run trains on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halcyon.errors import TrainerExit
from halcyon_api.exit_codes import ExitCode

if TYPE_CHECKING:
    from halcyon.context import Context

app = typer.Typer(help="Build token caches, and look at what a run trains on.", no_args_is_help=True)

Document = Annotated[Path, typer.Argument(help="The TrainingRun document, such as run.yaml.", metavar="RUN.YAML")]
Root = Annotated[str | None, typer.Option(help="The run's checkpoint root instead of spec.checkpoint.root: its caches are below it.")]


@app.command()
def build(document: Document, checkpoint_root: Root = None) -> None:
    """Build the token caches of a run; go on where an earlier build was stopped."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from halcyon.data.cache.build import Built
    from halcyon.data.open import ensure_caches
    from halcyon.data.show import source_table, speed_words

    with _told(document):
        spec = _context(document, checkpoint_root).run.spec
        console = Console()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            tasks = {source.name: progress.add_task(source.name, total=None, words="") for source in spec.data.sources}
            began: dict[str, float] = {}

            def show(built: Built) -> None:
                now = time.monotonic()
                began.setdefault(built.source, now)
                words = f"{built.tokens:,} tokens, {built.shards} shards  {speed_words(built, now - began[built.source])}"
                progress.update(tasks[built.source], words=words, total=1 if built.finished else None, completed=int(built.finished))

            _, caches = ensure_caches(spec, process=f"build/{time.time_ns()}", report=show)
        console.print(source_table(caches.ledgers))


@app.command()
def show(
    document: Document,
    step: Annotated[int, typer.Option(min=0, help="The step, counted from 0.")] = 0,
    rows: Annotated[str, typer.Option(help="Which rows of the batch, such as 3 or 0:4.")] = "0:4",
    host: Annotated[int | None, typer.Option(min=0, help="Only rows that this host reads.")] = None,
    checkpoint_root: Root = None,
) -> None:
    """Print the examples of a step: source, documents, text; what does not count in the loss is struck through."""
    import numpy as np
    from rich.console import Console

    from halcyon.data.open import dataset_of, ensure_caches
    from halcyon.data.show import step_view
    from halcyon.data.trace import rows_of_host

    with _told(document):
        context = _context(document, checkpoint_root)
        spec = context.run.spec
        store, caches = ensure_caches(spec, process=f"show/{time.time_ns()}")
        dataset = dataset_of(spec, store, caches)
        chosen = np.arange(dataset.schedule.batch_size(step))
        if host is not None:
            mesh, topology = context.mesh, context.topology
            chosen = rows_of_host(
                len(chosen), spec.trainer.microbatches, mesh.data_parallelism, mesh.tensor, topology.devices_per_host, host
            )
        begin, _, end = rows.partition(":")
        picked = chosen[int(begin or 0) : (int(end) if end else None) if ":" in rows else int(begin) + 1]
        console = Console()
        for part in step_view(dataset, caches.ledgers, step, picked):
            console.print(part)


@app.command()
def stats(document: Document, checkpoint_root: Root = None) -> None:
    """Print what the sources of a run hold, how often each is seen, and how long its documents are."""
    from rich.console import Console

    from halcyon.data.open import dataset_of, ensure_caches
    from halcyon.data.show import stats_view

    with _told(document):
        spec = _context(document, checkpoint_root).run.spec
        store, caches = ensure_caches(spec, process=f"stats/{time.time_ns()}")
        Console().print(stats_view(dataset_of(spec, store, caches), caches.ledgers, spec.trainer.steps))


def _context(document: Path, checkpoint_root: str | None) -> Context:
    from halcyon.context import check_context, resolve_context

    context = resolve_context(document, {}, checkpoint_root=checkpoint_root)
    check_context(context)
    return context


@contextmanager
def _told(document: Path) -> Iterator[None]:
    """One sentence and an exit code for what the user can mend."""
    try:
        yield
    except TrainerExit as error:
        sys.stderr.write(f"{document}: {error}\n")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the shards that are done are kept\n")
        raise typer.Exit(ExitCode.FAILURE) from None
