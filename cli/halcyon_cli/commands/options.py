"""Arguments and options that several commands have."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from halcyon_cli import cluster
from halcyon_cli.output import reporting_errors

Run = Annotated[str, typer.Argument(help="Name of the TrainingRun.", metavar="RUN")]
Wait = Annotated[bool, typer.Option(help="Wait until it is done.")]


@dataclass(frozen=True)
class Cluster:
    """Where the runs of a command are.

    Args:
        namespace: Namespace of the run. Default: the kubeconfig's.
        context: Context of the kubeconfig. Default: the current one.
    """

    namespace: Annotated[str | None, typer.Option("--namespace", "-n")] = None
    context: str | None = None

    @contextlib.contextmanager
    def connected(self, failure_code: int = 1) -> Iterator[cluster.Runs]:
        """The runs, for a command that ends with a sentence if it cannot do its work."""
        with reporting_errors(failure_code):
            yield cluster.Runs(self.context, self.namespace)


CURRENT = Cluster()
"""That of the kubeconfig."""


class OutputFormat(StrEnum):
    """Output formats besides the table."""

    JSON = "json"


Output = Annotated[OutputFormat | None, typer.Option("--output", "-o", help="json: for programs. Default: as a table.")]
