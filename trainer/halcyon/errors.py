"""Errors that end a training, each with the exit code and the cause that the operator will read."""

from __future__ import annotations

from typing import ClassVar

from halcyon_api.exit_codes import ExitCode
from halcyon_api.progress import Cause


class TrainerExit(Exception):
    """The process must end. The message is one sentence for the user."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE
    cause: ClassVar[Cause] = "failed"
    others_missing: ClassVar[bool] = False
    """Whether the process gave up waiting for the others: the cause lies with them."""


class BadConfiguration(TrainerExit):
    """The run document cannot be trained as it stands."""

    exit_code = ExitCode.BAD_CONFIGURATION
    cause = "badConfiguration"


class DataUnreachable(TrainerExit):
    """A source of data, or a tokenizer, lies where nothing answers for now, or where access is refused."""

    exit_code = ExitCode.DATA_UNREACHABLE
    cause = "dataUnreachable"


class DamagedData(BadConfiguration):
    """The token cache is not what was written."""


class Fenced(TrainerExit):
    """A newer epoch owns the checkpoint root."""

    exit_code = ExitCode.FENCED
    cause = "fenced"

    def __init__(self, message: str, owner_attempt: int) -> None:
        super().__init__(message)
        self.owner_attempt = owner_attempt
        """Attempt of the epoch that owns the root."""


class NoValidCheckpoint(TrainerExit):
    """There should be a checkpoint, and none can be verified."""

    exit_code = ExitCode.NO_VALID_CHECKPOINT
    cause = "noValidCheckpoint"


class RunChanged(TrainerExit):
    """Model, data, tokenizer or optimizer differ from those of the checkpoint."""

    exit_code = ExitCode.RUN_CHANGED
    cause = "runChanged"


class Diverged(TrainerExit):
    """The numbers of a step say that the run is lost, and its policy is to stop."""

    exit_code = ExitCode.DIVERGED
    cause = "diverged"


class RootTaken(TrainerExit):
    """The checkpoint root belongs to another run."""

    exit_code = ExitCode.ROOT_TAKEN
    cause = "rootTaken"


class RootUnusable(TrainerExit):
    """The checkpoint root cannot be read or written, or cannot keep two writers apart."""

    exit_code = ExitCode.ROOT_UNUSABLE
    cause = "rootUnusable"


class Preempted(TrainerExit):
    """A notice of preemption came before the run could do anything that is worth a checkpoint."""

    exit_code = ExitCode.PREEMPTED
    cause = "preempted"
