"""Weights & Biases. Its own environment variables set account, server and mode (``WANDB_MODE=offline`` needs neither)."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

from halcyon.telemetry.trackers.tracker import TrackedRun, library

_SERVER = "https://api.wandb.ai"
_WITHOUT_SERVER = ("offline", "disabled", "dryrun")


class WeightsAndBiases:
    """A run of Weights & Biases, under the same id after each restart. It takes only steps after its last one.

    Args:
        project: The project.
    """

    def __init__(self, project: str) -> None:
        self._project = project
        self._run: Any = None

    def begin(self, run: TrackedRun) -> None:
        """Begin or continue the run.

        Raises:
            ModuleNotFoundError: wandb is not installed.
            PermissionError: There are no credentials. The library would ask for them on the terminal.
            Exception: The library raised it.
        """
        wandb = library("wandb", "wandb")
        if not has_credentials(os.environ):
            raise PermissionError("there are no credentials; run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        self._run = wandb.init(
            project=self._project,
            id=run.identity,
            name=run.name,
            resume="allow",
            config=dict(run.document),
            settings=wandb.Settings(console="off", silent=True),
        )

    def numbers(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Add numbers. Those of steps that the run has already are bitwise the same, and are left out."""
        if step >= self._run.starting_step:
            self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Do nothing: the library sends by itself."""

    def end(self, cause: str, summary: Mapping[str, float]) -> None:
        """Finish the run."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=1 if cause == "error" else 0)


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Whether the library will find credentials, or needs none."""
    if environ.get("WANDB_MODE") in _WITHOUT_SERVER or environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(environ.get("WANDB_BASE_URL") or _SERVER).hostname or ""
    try:
        return netrc.netrc(environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
