"""TensorBoard: event files in a folder, written by tensorboardX."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from halcyon.telemetry.trackers.tracker import TrackedRun, library
from halcyon_api.yaml_text import dump


class TensorBoard:
    """A folder for TensorBoard. Each process writes a file; at its start it purges the steps that it does again from
    the earlier ones.

    Args:
        directory: The folder; of one run only.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._writer: Any = None

    def begin(self, run: TrackedRun) -> None:
        """Open a file.

        Raises:
            ModuleNotFoundError: tensorboardX is not installed.
        """
        self._writer = library("tensorboardX", "tensorboard").SummaryWriter(
            self._directory,
            purge_step=run.resumed_step + 1,
            # two processes may begin in the same second
            filename_suffix=f".{run.resumed_step:012d}.{secrets.token_hex(4)}",
        )
        self._writer.add_text("document", f"```yaml\n{dump(dict(run.document))}\n```", run.resumed_step)

    def numbers(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Add scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, time)

    def flush(self) -> None:
        """Write what was added."""
        self._writer.flush()

    def end(self, cause: str, summary: Mapping[str, float]) -> None:
        """Add the summary as text, and close the file."""
        rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in {**summary}.items())
        self._writer.add_text("end", f"{cause}\n\n| | |\n|---|---|\n{rows}")
        self._writer.close()
