"""The last words of a process: its termination report for the kubelet, or the last lines for its user.

The kubelet reads the report, a JSON document, from the container's termination log. Kubernetes keeps 4096 bytes and
cuts a longer document, even in the middle of a character. So the report is shortened to fit, first its list of
evaluated sources and then its message, and is always valid JSON.
"""

import os
import shlex
from bisect import bisect_right
from pathlib import Path
from typing import Any

from halcyon.host.clock import Clock
from halcyon.telemetry.log_line import RunIdentity
from halcyon_api.ends import EndCause
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.status.progress import TERMINATION_MESSAGE_LIMIT, ProgressReport, TerminationReport

MESSAGE_LENGTH = 2048
STACKS_LENGTH = 16_384
_ROOM_FOR_MESSAGE = 512
ELLIPSIS = "…"


def clip(text: str, length: int = MESSAGE_LENGTH) -> str:
    """The text, cut to at most ``length`` characters, with an ellipsis if cut.

    What UTF-8 cannot encode becomes a question mark.
    """
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= length else text[: length - 1] + ELLIPSIS


def termination_report(
    identity: RunIdentity,
    *,
    cause: EndCause,
    message: str,
    clock: Clock | None = None,
    **facts: Any,
) -> TerminationReport:
    """The report of a process that ends now.

    Args:
        identity: The process.
        cause: Why it ends.
        message: One sentence of any length; it is cut to `MESSAGE_LENGTH` characters.
        clock: Sources of time.
        facts: Further fields of the report.
    """
    return TerminationReport(
        **vars(identity),
        cause=cause,
        exit_code=cause.exit_code,
        message=clip(message),
        time=(clock or Clock()).timestamp(),
        **facts,
    )


def encode_report(report: TerminationReport, limit: int = TERMINATION_MESSAGE_LIMIT) -> bytes:
    """The report as JSON of at most ``limit`` bytes.

    Drops the last evaluated sources and the end of the message as far as necessary.
    """
    if len(whole := _encode(report)) <= limit:
        return whole
    # Keep the first evaluated sources, as many as leave room for the message. The log has all of them.
    progress = report.progress
    while (
        progress is not None
        and progress.evaluated is not None
        and progress.evaluated.sources
        and len(_encode(report.but(message="", progress=progress))) > limit - _ROOM_FOR_MESSAGE
    ):
        progress = progress.but(evaluated=progress.evaluated.but(sources=progress.evaluated.sources[:-1]))
    report = report.but(progress=progress)

    def cut(length: int) -> bytes:
        return _encode(report.but(message=clip(report.message, length) if length else ""))

    return cut(bisect_right(range(1, len(report.message) + 1), limit, key=lambda length: len(cut(length))))


def write_termination_report(path: Path | None, report: TerminationReport) -> str | None:
    """Overwrite the termination log with the report. The file is not replaced, because the kubelet mounts this file.

    It never raises `OSError`, and does not wait for the reader of a pipe: the process is about to exit.

    Returns:
        Why the report could not be written; None if it was, or if there is no termination log.
    """
    if path is None:
        return None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a file descriptor
            file.write(encode_report(report))
    except OSError as error:
        return f"the termination report could not be written to {path}: {error.strerror}"
    return None


def outcome(
    command: str, checkpoint: CheckpointSpec, ended: TerminationReport, known: ProgressReport
) -> tuple[str, ...]:
    """The last lines of a training on the user's own machine: the result, where it is kept, and what to type next.

    None if the process has trained no step and kept nothing.

    Args:
        command: What the user typed.
        checkpoint: The checkpoint root.
        ended: How the process ended.
        known: Its last progress.
    """
    progress, saved = known.progress, known.checkpoint
    if saved is None:
        return ()
    place = checkpoint.root.removeprefix("file://")
    numbers = [f"loss {progress.loss:z.4f}"] if progress.loss is not None else []
    if progress.evaluation_loss is not None:
        bits = f" ({progress.bits_per_byte:z.4f} bits per byte)" if progress.bits_per_byte is not None else ""
        numbers.append(f"held-out loss {progress.evaluation_loss:z.4f}{bits}")
    complete = ended.cause == EndCause.COMPLETED
    done = f"all {progress.steps} steps are done" if complete else f"{progress.step} of {progress.steps} steps are done"
    program = command.partition(" train ")[0]
    store = [
        word
        for option, value in (("--endpoint", checkpoint.endpoint), ("--region", checkpoint.region))
        if value is not None
        for word in (option, value)
    ]
    report = f"{program} report {shlex.join([place, *store])}"
    return (
        ", ".join([f"result  {ended.run}: {done}", *numbers]),
        f"kept    {place}: the checkpoint of step {saved.step}, and the history of the run",
        *(() if complete else (f"next    {command}",)),
        f"report  {report}",
    )


def _encode(report: TerminationReport) -> bytes:
    return report.model_dump_json(by_alias=True, exclude_none=True).encode()
