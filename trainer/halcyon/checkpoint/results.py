"""Arguments and results of the checkpoint engine: limits, callbacks, the restored state, the committed save."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halcyon_api.checkpoint_documents import BadStep, CommittedStep, Fingerprints, SkippedBatches


@dataclass(frozen=True)
class Limits:
    """Time limits and bounds of the checkpoint engine."""

    parts_seconds: float = 600.0
    """Longest wait for the other processes' parts of a save, and for process 0's commit."""
    request_seconds: float = 300.0
    """Longest wait for one request to the store."""
    damaged_checkpoints: int = 3
    """Number of damaged checkpoints that a restore skips at most."""
    shared_read_bytes: int = 256 * 2**20
    """Processes share the reads of checkpoints of at least this size.

    Of a smaller one each reads all that it needs, which is faster.
    """


USUAL_LIMITS = Limits()
PATIENCE_SECONDS = 5.0
"""A save is late when it takes this much longer than usual. A store that completes no request for this time is silent.
"""


@dataclass(frozen=True)
class RunRecord:
    """What every checkpoint records of its run."""

    fingerprints: Fingerprints
    """They must equal those of the checkpoints in the root."""
    seed: int
    mesh: dict[str, int]
    """Sizes of the axes."""
    vocabulary: int | None = None
    """Tokens of the model, without padding."""
    positions: int | None = None
    """Longest sequence of the model, in tokens."""
    hardware: str = ""
    """The devices of the run, for the chain of evidence."""


@dataclass(frozen=True)
class Restored:
    """A state that was read from a checkpoint."""

    step: int
    state: Any
    checkpoint: CommittedStep
    skipped: tuple[BadStep, ...]
    """Newer checkpoints that did not verify, newest first."""
    past: tuple[SkippedBatches, ...] = ()
    """Of another run's checkpoint: the returns that decide which batches follow it."""


@dataclass(frozen=True)
class SaveReport:
    """A committed save."""

    checkpoint: CommittedStep
    blocked_seconds: float
    """Time for which `save` blocked the loop: the wait for the previous save, and the copy."""
    copy_seconds: float
    """Time of the copy alone."""
    commit_seconds: float
    """Time from the end of the copy to the commit."""
    interval_seconds: float | None = None
    """Seconds between saves by time, as estimated after this save; None without saves by time."""


@dataclass(frozen=True)
class SaveUnderWay:
    """A save in flight."""

    step: int
    seconds: float
    """Since it began."""
    silent_seconds: float
    """Since the store last completed a request."""
    is_late: bool
    """Whether it takes longer than usual."""

    @property
    def clause(self) -> str:
        """What the store did, for the end of a sentence; empty if it answers."""
        if self.silent_seconds < PATIENCE_SECONDS:
            return ""
        return f", and the store has completed no request for {self.silent_seconds:.0f} s"


def _ignore(*_: object) -> None:
    return


@dataclass(frozen=True)
class Callbacks:
    """Functions that the checkpoint engine calls in a background thread.

    The next call of the engine raises an error of a callback.
    """

    on_commit: Callable[[SaveReport], object] = _ignore
    """Called after each commit."""
    on_failure: Callable[[str], object] = _ignore
    """Called after each failed save with the reason (`Checkpointer.last_error`)."""
    on_warning: Callable[[str], object] = _ignore
    """Called with the handling of a fault that does not end the run."""
    on_read_back: Callable[[CommittedStep, str | None], object] = _ignore
    """Called on process 0 with a checkpoint that was read back after its commit, and its damage; None: it is intact."""
    on_newest: Callable[[CommittedStep | None], object] = _ignore
    """Called with the newest checkpoint of HEAD, after a change of HEAD that is no commit. None: there is none."""
    on_return: Callable[[], object] = _ignore
    """Called in the main thread when the run goes back to a checkpoint."""


NO_CALLBACKS = Callbacks()


class CheckpointReader:
    """Reads checkpoints of a run while it trains, such as an export. Called in a background thread."""

    def committed(self, entry: CommittedStep) -> None:
        """A checkpoint was committed.

        Called on every process, with the same checkpoints, and again at later commits.
        """

    def not_saved(self, step: int) -> None:
        """The save of a step failed. Called on process 0."""

    def in_use(self, step: int) -> bool:
        """Whether the checkpoint of a step is still read, and therefore kept. Called on process 0."""
        raise NotImplementedError
