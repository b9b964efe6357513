"""Arguments and results of the checkpoint engine: its limits, what was restored, what was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halcyon_api.checkpoint_documents import BadStep, CommittedStep


@dataclass(frozen=True)
class Limits:
    """How long to wait, and how far to go back."""

    parts_seconds: float = 600.0
    """For the other processes' parts of a save, and for process 0's commit."""
    request_seconds: float = 300.0
    """For one request to the store."""
    damaged_checkpoints: int = 3
    """How many newer checkpoints that do not verify a restore passes over."""
    shared_read_bytes: int = 256 * 2**20
    """Of smaller checkpoints every process reads all that it needs: that takes less time than to hand it from one to another."""


USUAL_LIMITS = Limits()


@dataclass(frozen=True)
class Restored:
    """A state taken from a checkpoint."""

    step: int
    state: Any
    checkpoint: CommittedStep
    skipped: tuple[BadStep, ...]
    """Newer checkpoints that did not verify, newest first."""


@dataclass(frozen=True)
class SaveReport:
    """A committed save."""

    checkpoint: CommittedStep
    blocked_seconds: float
    """How long `save` held the loop up: waiting for the save before, and the copy."""
    copy_seconds: float
    """The copy alone."""
    commit_seconds: float
    """From the copy's end to the commit."""
