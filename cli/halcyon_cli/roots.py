"""Reads the history of a run from its checkpoint root, wherever that lies: the user names the root, or a run in the
cluster that has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halcyon.commands.options import StoreSettings
from halcyon_api.base import InvalidRun
from halcyon_api.defaults.files import with_values
from halcyon_api.defaults.units import Values
from halcyon_api.reading import parse_run
from halcyon_api.training_run import TrainingRunSpec
from halcyon_cli.output import Rejected

if TYPE_CHECKING:
    from halcyon.host.storage.store import Store
    from halcyon.telemetry.history.reading import History
    from halcyon_cli.cluster import Runs
    from halcyon_cli.commands.options import Cluster

_RUN_OR_ROOT = typer.Argument(
    help="Name of a TrainingRun in the cluster; or a checkpoint root (s3://BUCKET/PATH, a directory), or the document "
    "that names it.",
    metavar="RUN|ROOT|RUN.YAML",
)
Place = Annotated[str, _RUN_OR_ROOT]
Places = Annotated[list[str], _RUN_OR_ROOT]


class RootSettings(StoreSettings):
    """How a command reaches the store of a root.

    Args:
        endpoint: For checkpoint roots: address of an S3-compatible store other than AWS.
        region: For checkpoint roots: region of the S3 bucket.
    """


USUAL = RootSettings()
"""Those of the environment."""


def is_root(place: str) -> bool:
    """Whether a word of the command line is a root or a run document. A name of a run has neither dots nor slashes."""
    if "/" in place or "." in place or place.startswith("~"):
        return True
    return any((Path(place) / key).exists() for key in ("HEAD", "metrics"))


def cluster_of(name: str, cluster: Cluster) -> Runs:
    """The cluster that has a run, for a word that is no root.

    Raises:
        Rejected: No cluster is configured.
    """
    from halcyon_cli.cluster import Runs

    try:
        return Runs(cluster.context, cluster.namespace)
    except Rejected as refused:
        raise Rejected(f"there is no checkpoint root {name} here, and {refused}") from None


def store_of_root(place: str, settings: StoreSettings) -> Store:
    """The root at a place.

    Raises:
        typer.Exit: The place is not valid; the sentence is printed.
    """
    from halcyon.commands.checkpoints import root_store
    from halcyon.commands.errors import report_root_errors

    with report_root_errors():
        return root_store(place, settings)


def store_of_run(runs: Runs, name: str, settings: StoreSettings) -> Store:
    """The checkpoint root of a run in the cluster.

    Args:
        runs: The cluster.
        name: The run's name.
        settings: Instead of those of the document, as of an address that only the cluster has.

    Raises:
        typer.Exit: The address is not valid; the sentence is printed.
        Rejected: There is no such run.
    """
    from halcyon_api.defaults.status import read_values
    from halcyon_api.status.run_status import parse_status

    live = runs.get(name)
    checkpoint = live_spec(live, read_values(parse_status(live.get("status")).defaults)).checkpoint
    found = StoreSettings(settings.endpoint or checkpoint.endpoint, settings.region or checkpoint.region)
    return store_of_root(checkpoint.root, found)


def managed_in(store: Store) -> dict[str, Any]:
    """The run with its status that the manager of a run on hosts keeps in a root; empty: no manager did.

    Raises:
        typer.Exit: The root does not answer; the sentence is printed.
    """
    from halcyon.commands.errors import report_root_errors
    from halcyon_cli.hosts.views import STATUS_KEY, document_in

    with report_root_errors():
        return document_in(store.read(STATUS_KEY).data)


def history_in(store: Store) -> History:
    """The history in a root.

    Raises:
        typer.Exit: The root does not answer; the sentence is printed.
        Rejected: The root has no history.
    """
    from halcyon.commands.errors import report_root_errors
    from halcyon.telemetry.history.reading import read_history

    with report_root_errors():
        found = read_history(store)
    if not found.groups and found.damages:
        raise Rejected(f"{found.root}: no part of its history can be read: {found.damages[0]}")
    if not found.groups:
        raise Rejected(
            f"{found.root} has no history: no run has trained there since Halcyon keeps one, or the address is another "
            "one"
        )
    return found


def losses_in(store: Store) -> list[float]:
    """The losses in the history of a root, oldest first; empty if it has none."""
    from halcyon.commands.errors import report_root_errors
    from halcyon.telemetry.history.reading import read_history

    with report_root_errors():
        return [row["loss"] for row in read_history(store).steps if "loss" in row]


def sections_in(store: Store) -> dict[str, Any]:
    """The sections of the run's document that the newest checkpoint in a root recorded; empty without a checkpoint.

    Raises:
        typer.Exit: The root does not answer; the sentence is printed.
    """
    from halcyon.checkpoint.opening import load_head
    from halcyon.checkpoint.verify import readable
    from halcyon.commands.errors import report_root_errors

    with report_root_errors():
        head, _ = load_head(store)
        for _, manifest in readable(store, head.committed if head is not None else ()):
            return manifest.fingerprints.documents
    return {}


def live_spec(live: dict[str, Any], values: Values) -> TrainingRunSpec:
    """The spec of a run in the cluster.

    Args:
        live: Its document, from the API server.
        values: The values that it has taken from its defaults.

    Raises:
        Rejected: This version cannot read it.
    """
    try:
        document = {key: live[key] for key in ("apiVersion", "kind", "metadata", "spec")}
        return parse_run(with_values(document, values)).spec
    except InvalidRun as error:
        raise Rejected(f"this version cannot read run {live['metadata']['name']} in the cluster: {error}") from None
