"""Errors that end a trainer process, each with the cause that the operator reads; the cause has the exit code."""

from typing import ClassVar

from halcyon_api.ends import EndCause, ExitCode
from halcyon_api.printable import printable

_NO_THREAD = "can't start new thread"
"""What Python says of it."""


def no_thread(error: BaseException) -> str:
    """The sentence about a thread that could not start; empty for another error."""
    fix = "raise its limit of processes (ulimit -u, the pids of a pod), or end other programs"
    return f"this machine lets the process start no more threads; {fix}" if str(error) == _NO_THREAD else ""


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


class TrainerExit(Exception):
    """The process must end. The message is one sentence for the user."""

    cause: ClassVar[EndCause] = EndCause.FAILED
    others_missing: ClassVar[bool] = False
    """Whether the process stopped waiting for other processes; they or their pods are then the cause."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the process."""
        return self.cause.exit_code


class BadConfiguration(TrainerExit):
    """The run document must be changed before it can be trained."""

    cause = EndCause.BAD_CONFIGURATION


class DataUnreachable(TrainerExit):
    """The store of a data source or of a tokenizer does not answer, or denies access."""

    cause = EndCause.DATA_UNREACHABLE


class DamagedData(BadConfiguration):
    """The bytes of the token cache differ from those that were written."""


class Fenced(TrainerExit):
    """A newer epoch owns the checkpoint root."""

    cause = EndCause.FENCED

    def __init__(self, message: str, owner_attempt: int) -> None:
        super().__init__(message)
        self.owner_attempt = owner_attempt
        """Attempt of the epoch that owns the root."""


class PodsLost(TrainerExit):
    """All pods of a restart in place were lost, so nobody knows the starts before: all pods are made again, as the next
    restart."""

    cause = EndCause.NOT_REJOINED


class NoValidCheckpoint(TrainerExit):
    """The run must resume from a checkpoint, and no checkpoint can be verified."""

    cause = EndCause.NO_VALID_CHECKPOINT


class RunChanged(TrainerExit):
    """Model, data, tokenizer or optimizer differ from those of the checkpoint."""

    cause = EndCause.RUN_CHANGED


class Diverged(TrainerExit):
    """The run diverged, by the numbers of a step, and its policy is to stop."""

    cause = EndCause.DIVERGED


class Corrupted(TrainerExit):
    """An audit found wrong numbers (`halcyon.step.audit`)."""

    cause = EndCause.CORRUPTED

    def __init__(self, message: str, processes: tuple[int, ...]) -> None:
        super().__init__(message)
        self.processes = processes
        """The processes of which at least one computed or held wrong numbers."""


class ReplayDiffers(TrainerExit):
    """A replay has found numbers that are not those of the run (`halcyon.run.replay`)."""

    cause = EndCause.REPLAY_DIFFERS


class RootTaken(TrainerExit):
    """The checkpoint root belongs to another run."""

    cause = EndCause.ROOT_TAKEN


class RootUnusable(TrainerExit):
    """The checkpoint root cannot be read or written, or its store cannot fence a second writer."""

    cause = EndCause.ROOT_UNUSABLE


class Preempted(TrainerExit):
    """A preemption notice came before there was anything to save."""

    cause = EndCause.PREEMPTED
