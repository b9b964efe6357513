"""Reports of checkpoints and of exports."""

from __future__ import annotations

from halcyon.telemetry.clock import microseconds
from halcyon.telemetry.reports import Reports
from halcyon.telemetry.termination import clip
from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.status.progress import CheckpointProgress


class CheckpointReports(Reports):
    """The reports of checkpoints and of exports."""

    def saves_every(self, seconds: float | None) -> None:
        """Report the interval in seconds between saves that are made by time. For any thread."""
        with self._lock:
            self._run.facts.save_interval_seconds = seconds

    def checkpoint(self, committed: CommittedStep, *, blocked_seconds: float | None = None, save_seconds: float = 0.0) -> None:
        """Report a committed checkpoint. For any thread.

        Args:
            committed: The checkpoint.
            blocked_seconds: Time that its save blocked the loop.
            save_seconds: Time from the beginning of its save to the commit.
        """
        progress = _checkpoint_progress(committed)
        with self._lock:
            self._run.facts.checkpoint, self._run.facts.checkpoint_time = progress, self._clock.wall()
            self._run.facts.checkpoint_error = None
            self._count(checkpoints=1, save_seconds=save_seconds, blocked_seconds=blocked_seconds or 0.0)
        self._event(
            "checkpoint",
            step=committed.step,
            path=committed.path,
            size_bytes=committed.size_bytes,
            blocked_seconds=None if blocked_seconds is None else microseconds(blocked_seconds),
        )

    def found_checkpoint(self, committed: CommittedStep) -> None:
        """Report the newest committed checkpoint at the start, made by an earlier process. It is neither counted nor logged."""
        progress = _checkpoint_progress(committed)
        with self._lock:
            self._run.facts.checkpoint, self._run.facts.checkpoint_time = progress, self._clock.wall()

    def verified_checkpoint(self, step: int) -> None:
        """Report that a checkpoint was read back after its commit and is intact. For any thread."""
        with self._lock:
            known = self._run.facts.checkpoint
            if known is not None and known.step == step:
                self._run.facts.checkpoint = known.model_copy(update={"verified": True})
        self._event("checkpointVerified", step=step)

    def checkpoint_failed(self, reason: str) -> None:
        """Report that a save failed, or that a committed checkpoint is damaged; shown until the next commit. For any thread."""
        with self._lock:
            self._run.facts.checkpoint_error = clip(reason)
            self._count(checkpoint_failures=1)
            step = self._run.step
        self._event("checkpointFailed", step=step, reason=reason)

    def found_exports(self, step: int | None) -> None:
        """Report the newest step whose export an earlier process completed; None: there is none. It is neither counted nor logged."""
        with self._lock:
            self._run.facts.exported_step = step

    def exported(self, step: int, path: str, *, size_bytes: int, seconds: float) -> None:
        """Report a complete export. For any thread.

        Args:
            step: Steps done when its checkpoint was made.
            path: Address of the folder.
            size_bytes: Bytes of the tensors.
            seconds: Time since the checkpoint was committed.
        """
        with self._lock:
            self._run.facts.exported_step = max(step, self._run.facts.exported_step or 0)
            self._count(exports=1)
        self._event("exported", step=step, path=path, size_bytes=size_bytes, seconds=microseconds(seconds))

    def export_failed(self, step: int, reason: str) -> None:
        """Report that a try of an export failed. For any thread."""
        with self._lock:
            self._count(export_failures=1)
        self._event("exportFailed", step=step, reason=clip(reason))


def _checkpoint_progress(committed: CommittedStep) -> CheckpointProgress:
    return CheckpointProgress(
        step=committed.step,
        attempt=committed.epoch.attempt,
        path=committed.path,
        time=committed.time,
        size_bytes=committed.size_bytes,
    )
