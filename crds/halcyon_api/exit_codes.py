"""Exit codes of the trainer: what the JobSet's failure policy and the operator conclude from an ended container.

0 is the end of the run. `PREEMPTED` is a leave after a notice and costs nothing. The reserved codes of `FATAL_CODES` must not be
retried at once: the same would happen again, or something must be looked at first. Every other code is a failure that counts.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes with a meaning."""

    DONE = 0
    """All steps are done and the last checkpoint is committed."""
    FAILURE = 1
    """Something went wrong that may go right the next time."""
    PREEMPTED = 42
    """A notice came, the process saved what there was time for, and left."""
    BAD_CONFIGURATION = 80
    """The run document cannot be trained as it stands."""
    FENCED = 81
    """A newer epoch owns the checkpoint root."""
    NO_VALID_CHECKPOINT = 82
    """There should be a checkpoint, and none can be verified."""
    RUN_CHANGED = 83
    """Model, data, tokenizer or optimizer differ from those of the checkpoint."""
    ROOT_TAKEN = 84
    """The checkpoint root belongs to another run."""
    ROOT_UNUSABLE = 85
    """The checkpoint root cannot be read or written, or cannot keep two writers apart."""
    DIVERGED = 86
    """Loss or gradient are not finite, or jumped, and the run's policy is to stop."""
    DATA_UNREACHABLE = 87
    """A source of data does not answer, or refuses access, and did so for as long as the run allows."""


FATAL_CODES: tuple[ExitCode, ...] = tuple(code for code in ExitCode if code >= ExitCode.BAD_CONFIGURATION)
"""Codes after which a JobSet starts nothing again: the operator decides, and tries those of an unusable root or source again later."""
