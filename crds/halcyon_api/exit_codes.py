"""Exit codes of the trainer, which the JobSet's failure policy and the operator evaluate.

0 is the end of the run. `PREEMPTED` is an exit after a preemption notice and does not count as a failure. The reserved codes of
`FATAL_CODES` must not be retried at once: the same would happen again, or the operator must check something first. Every other code counts
as a failure.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes with a meaning."""

    DONE = 0
    """All steps are done and the last checkpoint is committed."""
    FAILURE = 1
    """A failure that a retry may solve."""
    PREEMPTED = 42
    """The process had a preemption notice, saved what there was time for, and exited."""
    BAD_CONFIGURATION = 80
    """The run document cannot be trained without an edit."""
    FENCED = 81
    """A newer epoch owns the checkpoint root."""
    NO_VALID_CHECKPOINT = 82
    """The root should have a checkpoint, but none verifies."""
    RUN_CHANGED = 83
    """Model, data, tokenizer or optimizer differ from those of the checkpoint."""
    ROOT_TAKEN = 84
    """The checkpoint root belongs to another run."""
    ROOT_UNUSABLE = 85
    """The checkpoint root cannot be read or written, or cannot fence a second writer."""
    DIVERGED = 86
    """Loss or gradient is not finite, or jumped, and the run's policy is to stop."""
    DATA_UNREACHABLE = 87
    """A data source did not answer, or denied access, for as long as the run allows."""


FATAL_CODES: tuple[ExitCode, ...] = tuple(code for code in ExitCode if code >= ExitCode.BAD_CONFIGURATION)
"""Codes after which a JobSet restarts nothing: the operator decides, and retries later after an unusable root or data source."""
