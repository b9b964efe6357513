"""`python -m halcyon_devcluster`: the command line for the functions that tests and the demo call."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halcyon_devcluster.cluster import Cluster, ClusterStatus
from halcyon_devcluster.engine import docker_answers
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.factory import open_cluster
from halcyon_devcluster.images import Buildable, image_tag
from halcyon_devcluster.images import build as build_any
from halcyon_devcluster.paths import DEFAULT_NAME, cache_folder
from halcyon_devcluster.progress import ConsoleProgress

app = typer.Typer(
    help="A real single-node Kubernetes on this machine: kind if a Docker engine answers, otherwise built from source.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_OUT = Console()
_ERR = Console(stderr=True)

Name = Annotated[str, typer.Option("--name", help="Name of the cluster; several can run side by side.")]


def _cluster(name: str) -> Cluster:
    # Progress goes to standard error, so that standard output holds only the result, for scripts.
    return open_cluster(name, progress=ConsoleProgress(_ERR))


@app.command()
def up(name: Name = DEFAULT_NAME) -> None:
    """Make the cluster, or start its missing components; does nothing to a cluster that is up."""
    cluster = _cluster(name)
    cluster.up()
    _OUT.print(f"export KUBECONFIG={cluster.kubeconfig}", soft_wrap=True, highlight=False)


@app.command()
def down(
    name: Name = DEFAULT_NAME,
    purge: Annotated[bool, typer.Option("--purge", help="Also delete the kept image content.")] = False,
) -> None:
    """Take the cluster down and leave nothing behind: processes, mounts, links, rules, control groups."""
    _cluster(name).down(purge=purge)


@app.command()
def status(name: Name = DEFAULT_NAME) -> None:
    """Show every component; exit with 0 only if all are ready."""
    cluster = _cluster(name)
    state = cluster.status()
    if state.components:
        _OUT.print(_table(name, state))
        _OUT.print(f"state  {cluster.paths.state}\nlogs   {cluster.paths.logs}", soft_wrap=True, highlight=False)
    else:
        _OUT.print(f"Cluster {name} is down.")
    raise typer.Exit(0 if state.ready else 1)


@app.command()
def load(
    image: Annotated[str, typer.Argument(help="An image's name in buildah (or docker), or an archive's path.")],
    name: Name = DEFAULT_NAME,
) -> None:
    """Make an image usable by pods; skipped if the node has it already."""
    _OUT.print(_cluster(name).load(image), soft_wrap=True, highlight=False)


@app.command()
def kubeconfig(name: Name = DEFAULT_NAME) -> None:
    """Print the path of the administrator's kubeconfig."""
    _OUT.print(str(_cluster(name).kubeconfig), soft_wrap=True, highlight=False)


@app.command()
def build(
    what: Annotated[Buildable, typer.Argument(help="Which image.")],
    tag_only: Annotated[
        bool, typer.Option("--tag-only", help="Print the name of the image without building it.")
    ] = False,
) -> None:
    """Build one of the project's images unless it exists already; the last line is its full name."""
    progress, cache = ConsoleProgress(_ERR), cache_folder(os.environ, Path.home())
    if tag_only:
        name = image_tag(what, cache=cache, docker=docker_answers(), progress=progress)
    else:
        name = build_any(what, cache=cache, progress=progress)
    _OUT.print(name, soft_wrap=True, highlight=False)


def _table(name: str, state: ClusterStatus) -> Table:
    table = Table(
        "component", "ready", "version", "detail", title=f"cluster {name} ({state.backend})", title_justify="left"
    )
    for row in state.components:
        mark = "[green]yes[/green]" if row.ready else "[red]no[/red]"
        table.add_row(row.name, mark, row.version, escape(row.detail))
    return table


def main() -> None:
    """Run the command line; an error that the user can fix is printed as one sentence, with exit status 1."""
    try:
        app()
    except DevclusterError as mistake:
        _ERR.print(f"[red]error:[/red] {escape(str(mistake))}", soft_wrap=True, highlight=False)
        raise SystemExit(1) from None
