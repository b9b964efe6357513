"""The last three lines of a training on the user's own machine: the result, where it is kept, and what to type next. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path

from halcyon_api.status.progress import ProgressReport, TerminationReport


def outcome(document: Path, root: str, ended: TerminationReport, known: ProgressReport) -> tuple[str, ...]:
    """The lines; none if the process has trained no step and kept nothing.

    Args:
        document: The run document of the command.
        root: Address of the checkpoint root.
        ended: How the process ended.
        known: Its last progress.
    """
    progress, saved = known.progress, known.checkpoint
    if saved is None:
        return ()
    place = root.removeprefix("file://")
    numbers = [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
    if progress.evaluation_loss is not None:
        bits = f" ({progress.bits_per_byte:.4f} bits per byte)" if progress.bits_per_byte is not None else ""
        numbers.append(f"held-out loss {progress.evaluation_loss:.4f}{bits}")
    complete = ended.cause == "completed"
    done = f"all {progress.steps} steps are done" if complete else f"{progress.step} of {progress.steps} steps are done"
    train, report = f"halcyon train {shlex.quote(str(document))}", f"halcyon report {shlex.quote(place)}"
    return (
        ", ".join([f"result  {ended.run}: {done}", *numbers]),
        f"kept    {place}: the checkpoint of step {saved.step}, and the history of the run",
        f"next    {f'{report} --html report.html' if complete else f'{train} goes on from step {saved.step}; {report} shows the run'}",
    )
