"""Weights & Biases. Its own environment variables set account, server and mode (``WANDB_MODE=offline`` needs neither).

A resumed run continues under the same id. Online, the server says after which step. Offline, the library begins a
folder for each process and knows nothing of the earlier ones; ``wandb sync`` later sends all of them, one after the
other, under that id. So the last step is kept in a small file beside these folders. It is written before the numbers:
after a kill, a point may be missing, but none is there twice.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from halcyon.storage.atomic_files import write_file
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
        self._first = 0
        self._last_step: Path | None = None
        self._waiting: list[tuple[int, dict[str, float]]] = []

    def begin(self, run: TrackedRun) -> None:
        """Begin or continue the run.

        Raises:
            ModuleNotFoundError: wandb is not installed.
            PermissionError: There are no credentials. The library would ask for them on the terminal.
            Exception: The library raised it.
        """
        wandb = library("wandb", "wandb")
        if not has_credentials(os.environ):
            raise PermissionError(
                "there are no credentials; run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
            )
        self._run = wandb.init(
            project=self._project,
            id=run.series,
            name=run.title,
            resume="allow",
            config=dict(run.document),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._first, self._last_step = int(self._run.starting_step), None
        if self._run.offline:
            self._last_step = Path(self._run.sync_dir).parent / f"halcyon-{run.series}.step"
            self._first = max(self._first, _step_in(self._last_step) + 1)

    def numbers(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Add numbers. Those of steps that the run has already are bitwise the same, and are left out."""
        if step >= self._first:
            self._waiting.append((step, dict(values)))

    def flush(self) -> None:
        """Hand the numbers to the library, which sends by itself."""
        if self._waiting and self._last_step is not None:
            write_file(self._last_step, [str(max(step for step, _ in self._waiting)).encode()])
        for step, values in self._waiting:
            self._run.log(values, step=step)
        self._waiting.clear()

    def end(self, cause: str, summary: Mapping[str, float]) -> None:
        """Finish the run."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=1 if cause == "error" else 0)


def _step_in(file: Path) -> int:
    """The step in a file; -1 without one."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return -1


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Whether the library will find credentials, or needs none."""
    if (
        environ.get("WANDB_MODE") in _WITHOUT_SERVER
        or environ.get("WANDB_API_KEY")
        or environ.get("WANDB_IDENTITY_TOKEN_FILE")
    ):
        return True
    host = urlparse(environ.get("WANDB_BASE_URL") or _SERVER).hostname or ""
    try:
        return netrc.netrc(environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
