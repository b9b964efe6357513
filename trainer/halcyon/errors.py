"""Errors that end a trainer process, each with the exit code and the cause that the operator reads."""

from __future__ import annotations

from typing import ClassVar

from halcyon_api.exit_codes import ExitCode
from halcyon_api.status.progress import Cause


class TrainerExit(Exception):
    """The process must end. The message is one sentence for the user."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE
    cause: ClassVar[Cause] = "failed"
    others_missing: ClassVar[bool] = False
    """Whether the process stopped waiting for other processes; they or their pods are then the cause."""


class BadConfiguration(TrainerExit):
    """The run document must be changed before it can be trained."""

    exit_code = ExitCode.BAD_CONFIGURATION
    cause = "badConfiguration"


class DataUnreachable(TrainerExit):
    """The store of a data source or of a tokenizer does not answer, or denies access."""

    exit_code = ExitCode.DATA_UNREACHABLE
    cause = "dataUnreachable"


class DamagedData(BadConfiguration):
    """The bytes of the token cache differ from those that were written."""


class Fenced(TrainerExit):
    """A newer epoch owns the checkpoint root."""

    exit_code = ExitCode.FENCED
    cause = "fenced"

    def __init__(self, message: str, owner_attempt: int) -> None:
        super().__init__(message)
        self.owner_attempt = owner_attempt
        """Attempt of the epoch that owns the root."""


class NoValidCheckpoint(TrainerExit):
    """The run must resume from a checkpoint, and no checkpoint can be verified."""

    exit_code = ExitCode.NO_VALID_CHECKPOINT
    cause = "noValidCheckpoint"


class RunChanged(TrainerExit):
    """Model, data, tokenizer or optimizer differ from those of the checkpoint."""

    exit_code = ExitCode.RUN_CHANGED
    cause = "runChanged"


class Diverged(TrainerExit):
    """The run diverged, by the numbers of a step, and its policy is to stop."""

    exit_code = ExitCode.DIVERGED
    cause = "diverged"


class RootTaken(TrainerExit):
    """The checkpoint root belongs to another run."""

    exit_code = ExitCode.ROOT_TAKEN
    cause = "rootTaken"


class RootUnusable(TrainerExit):
    """The checkpoint root cannot be read or written, or its store cannot fence a second writer."""

    exit_code = ExitCode.ROOT_UNUSABLE
    cause = "rootUnusable"


class Preempted(TrainerExit):
    """A preemption notice came before there was anything to save."""

    exit_code = ExitCode.PREEMPTED
    cause = "preempted"
