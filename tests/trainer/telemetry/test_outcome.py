"""The last lines of a training on the user's own machine."""

from __future__ import annotations

from pathlib import Path

from halcyon.telemetry.termination import outcome
from halcyon_api.progress import CheckpointProgress, Progress, ProgressReport, TerminationReport

TIME = "2026-03-01T12:00:00Z"


def lines(cause: str, step: int, *, saved: bool = True) -> tuple[str, ...]:
    known = ProgressReport(
        run="tiny", attempt=0, restart=0, process_index=0, stage="done", started_at=TIME,
        progress=Progress(step=step, steps=40, loss=2.5, evaluation_loss=2.25, bits_per_byte=1.5),
        checkpoint=CheckpointProgress(step=step, attempt=1, path="steps/x/", time=TIME) if saved else None,
    )  # fmt: skip
    ended = TerminationReport(cause=cause, exit_code=0, message="", run="tiny", time=TIME)  # type: ignore[arg-type]
    return outcome(Path("my run.yaml"), "file:///runs/tiny", ended, known)


def test_a_complete_run_is_followed_by_its_report() -> None:
    assert lines("completed", 40) == (
        "result  tiny: all 40 steps are done, loss 2.5000, held-out loss 2.2500 (1.5000 bits per byte)",
        "kept    /runs/tiny: the checkpoint of step 40, and the history of the run",
        "next    halcyon report /runs/tiny --html report.html",
    )


def test_a_run_that_stopped_can_go_on() -> None:
    result, _, follows = lines("preempted", 12)
    assert "12 of 40 steps are done" in result
    assert follows == "next    halcyon train 'my run.yaml' goes on from step 12; halcyon report /runs/tiny shows the run"


def test_a_run_that_kept_nothing_has_no_such_lines() -> None:
    assert lines("failed", 3, saved=False) == ()
