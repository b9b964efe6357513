"""Options and arguments that several commands have, described in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Document = Annotated[Path, typer.Argument(help="The TrainingRun document, such as run.yaml.", metavar="RUN.YAML")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set one field, such as spec.trainer.steps=100; null removes it. May be repeated.",
    ),
]
Defaults = Annotated[
    list[Path] | None,
    typer.Option(
        help="File with TrainingRunDefaults for fields that the run does not set; may be repeated, the most specific "
        "first."
    ),
]
