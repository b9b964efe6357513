"""Arguments and options that several commands have."""

from enum import StrEnum
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="Name of the TrainingRun.", metavar="RUN")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace of the run. Default: the kubeconfig's.")
]
Wait = Annotated[bool, typer.Option(help="Wait until it is done.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig. Default: the current one.")]


class OutputFormat(StrEnum):
    """Output formats besides the table."""

    JSON = "json"


Output = Annotated[OutputFormat | None, typer.Option("--output", "-o", help="json: for programs. Default: as a table.")]
