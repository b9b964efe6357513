"""`python -m halcyon_demo`, which is `make demo`: runs the demo and cleans up, also after an error or an interrupt."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from halcyon_demo.comparison import Comparison
from halcyon_demo.install import uninstall_operator
from halcyon_demo.observations import Failed
from halcyon_demo.on_slurm import run_demo_on_slurm
from halcyon_demo.page import page
from halcyon_demo.story import PLACE, run_demo
from halcyon_devcluster import Cluster, DevclusterError, open_cluster
from halcyon_devcluster.paths import DEFAULT_NAME
from halcyon_devcluster.progress import ConsoleProgress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_CONSOLE = Console(highlight=False)

_MIN_STEPS = 20


@app.command()
def demo(
    cluster_name: Annotated[
        str, typer.Option("--cluster", help="Name of the development cluster to use.")
    ] = DEFAULT_NAME,
    keep_cluster: Annotated[
        bool, typer.Option("--keep-cluster", help="Leave the cluster running, with everything in it.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=_MIN_STEPS, help="Steps of both runs. Default: those of the example.")
    ] = None,
    on_slurm: Annotated[bool, typer.Option("--slurm", help="Train on a SLURM instead, which is started here.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw both runs into this SVG file, and write what was printed into a page beside it."),
    ] = None,
) -> None:
    """Train on a real Kubernetes with a flipped bit, an eviction and a SIGKILL, and compare with an undisturbed run."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    if on_slurm:
        compared = run_demo_on_slurm(_CONSOLE)
        _conclude(_CONSOLE, compared, time.monotonic() - began)
        raise typer.Exit(0 if compared.identical else 1)
    progress = ConsoleProgress(_CONSOLE)
    console = Console(highlight=False, record=True, force_terminal=False, width=80) if picture is not None else _CONSOLE
    cluster = open_cluster(cluster_name, progress=progress)
    try:
        with _left_as_found(cluster, progress, keep=keep_cluster):
            result = run_demo(cluster, console, progress, steps=steps)
    except KeyboardInterrupt:
        _CONSOLE.print("Interrupted, and cleaned up.")
        raise typer.Exit(130) from None
    _conclude(console, result.comparison, time.monotonic() - began)
    if picture is not None:
        picture.write_text(result.picture(), encoding="utf-8")
        picture.with_suffix(".md").write_text(page(console.export_text(), picture.name), encoding="utf-8")
    if not result.comparison.identical:
        raise typer.Exit(1)
    _CONSOLE.print(
        "\nNext:\n"
        "  make demo ARGS=--keep-cluster           keeps the cluster, to inspect it with kubectl\n"
        "  examples/                               documents to start from, smallest first\n"
        "  .venv/bin/halcyon train examples/local-llama.yaml    the same kind of document, on this machine alone\n"
        "  docs/reference/trainingrun.md           every field of a document",
        soft_wrap=True,
    )


def _conclude(console: Console, comparison: Comparison, seconds: float) -> None:
    if comparison.identical:
        console.print(
            f"\n[green]All {comparison.steps} losses are bitwise the same[/green], including those of "
            f"{comparison.repeated} repeated steps. {seconds:.0f} s in total.",
            soft_wrap=True,
        )
        return
    console.print(f"\n[red]The runs differ[/red], in {len(comparison.differences)} places; the first ones:")
    for difference in comparison.differences[:5]:
        console.print(f"  {escape(difference)}", soft_wrap=True)


@contextmanager
def _left_as_found(cluster: Cluster, progress: ConsoleProgress, *, keep: bool) -> Iterator[None]:
    """Take the cluster down at the end.

    A cluster that was running before stays, but everything from the demo is removed.
    """
    ran_before = cluster.status().ready
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt must not stop the clean-up half-way
        if keep:
            progress.say(f"The cluster stays: export KUBECONFIG={cluster.kubeconfig}; stop it with `make down`.")
        elif ran_before:
            with progress.step("Removing the demo from the cluster, which was running before"):
                cluster.kubectl("delete", "namespace", PLACE.runs, "--ignore-not-found")
                uninstall_operator(cluster, PLACE)
        else:
            cluster.down()


def main() -> None:
    """Run the command line; an error that the user can fix is printed as one sentence, with exit status 1."""
    try:
        app()
    except (DevclusterError, Failed) as mistake:
        _CONSOLE.print(f"[red]error:[/red] {escape(str(mistake))}", soft_wrap=True)
        raise SystemExit(1) from None
