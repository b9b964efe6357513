"""The termination report fits into the size that Kubernetes keeps, and is always JSON.

A user gets the last lines of a training.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.telemetry import RunIdentity, termination_report, write_termination_report
from halcyon.telemetry.termination import clip, encode_report, outcome
from halcyon_api.ends import EndCause
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.status.progress import (
    TERMINATION_MESSAGE_LIMIT,
    CheckpointProgress,
    Evaluated,
    Progress,
    ProgressReport,
    SourceEvaluation,
    TerminationReport,
)
from tests.trainer.telemetry.fakes import IDENTITY, FakeTime

TIME = "2026-03-01T12:00:00Z"


def test_the_written_report_replaces_the_former_content(tmp_path: Path) -> None:
    file = tmp_path / "termination-log"
    file.write_text("what was there before, and longer than what comes now" * 100)
    report = termination_report(
        IDENTITY,
        cause=EndCause.FENCED,
        message="attempt 4 owns the root",
        step=12,
        checkpoint_step=10,
        epoch_attempt=4,
        clock=FakeTime().clock,
    )
    assert write_termination_report(file, report) is None
    assert file.read_text() == (
        '{"cause":"fenced","exitCode":81,"message":"attempt 4 owns the '
        'root","run":"demo","attempt":3,"restart":1,"processIndex":0,'
        '"step":12,"checkpointStep":10,"epochAttempt":4,"time":"2026-03-01T12:00:00.000Z"}'
    )


@given(st.text(alphabet=st.characters(), max_size=5000))
def test_any_message_gives_valid_json_that_fits(message: str) -> None:
    report = termination_report(IDENTITY, cause=EndCause.FAILED, message=message)
    written = encode_report(report)
    assert len(written) <= TERMINATION_MESSAGE_LIMIT
    read = TerminationReport.model_validate_json(written)
    kept = read.message.removesuffix("…")
    assert message.encode("utf-8", "replace").decode().startswith(kept)


@pytest.mark.parametrize("character", ["x", "é", "€", "😀", '"', "\\", "\n", "\x00", "\x1f", "\ud800"])
def test_a_long_message_is_cut_to_the_size_that_fits(character: str) -> None:
    written = encode_report(termination_report(IDENTITY, cause=EndCause.FAILED, message=character * 10_000))
    message = TerminationReport.model_validate_json(written).message
    assert message.endswith("…")
    assert len(message) == 2048 or len(written) > TERMINATION_MESSAGE_LIMIT - 10


def test_as_many_sources_are_reported_as_fit() -> None:
    sources = [
        SourceEvaluation(
            source=f"a-source-with-a-rather-long-name-{number}",
            loss=2.123456789,
            bits_per_byte=1.23456789,
            tokens=10**9,
        )
        for number in range(64)
    ]
    evaluated = Evaluated(run="base", step=10, path="steps/10/", sources=sources)
    report = termination_report(
        IDENTITY, cause=EndCause.COMPLETED, message="m" * 2000, progress=Progress(evaluated=evaluated)
    )
    written = encode_report(report)
    assert len(written) <= TERMINATION_MESSAGE_LIMIT
    read = TerminationReport.model_validate_json(written, by_alias=True)
    assert read.progress is not None
    assert read.progress.evaluated is not None
    reported = read.progress.evaluated.sources
    assert 10 < len(reported) < 64
    assert reported == sources[: len(reported)]
    assert len(read.message) >= 300


def test_a_report_without_a_message_still_fits_in_little() -> None:
    report = termination_report(RunIdentity("r" * 40), cause=EndCause.NO_VALID_CHECKPOINT, message="m" * 2048)
    assert TerminationReport.model_validate_json(encode_report(report, limit=300)).cause == "noValidCheckpoint"
    assert len(encode_report(report, limit=300)) <= 300


def test_a_file_that_cannot_be_written_is_reported_and_not_raised(tmp_path: Path) -> None:
    report = termination_report(IDENTITY, cause=EndCause.COMPLETED, message="done")
    problem = write_termination_report(tmp_path / "none" / "log", report)
    assert (
        problem
        == f"the termination report could not be written to {tmp_path / 'none' / 'log'}: No such file or directory"
    )
    assert write_termination_report(None, report) is None


def test_a_long_text_is_clipped() -> None:
    assert clip("short", 10) == "short"
    assert clip("0123456789", 10) == "0123456789"
    assert clip("0123456789x", 10) == "012345678…"
    assert clip("a\udc80b", 10) == "a?b"


def lines(cause: str, step: int, *, saved: bool = True) -> tuple[str, ...]:
    known = ProgressReport(
        run="tiny", attempt=0, restart=0, process_index=0, stage="done", started_at=TIME,
        progress=Progress(step=step, steps=40, loss=2.5, evaluation_loss=2.25, bits_per_byte=1.5),
        checkpoint=CheckpointProgress(step=step, attempt=1, path="steps/x/", time=TIME) if saved else None,
    )  # fmt: skip
    ended = TerminationReport(cause=cause, exit_code=0, message="", run="tiny", time=TIME)  # type: ignore[arg-type]
    command = "halcyon train 'my run.yaml' --checkpoint-root '/my runs/ü'"
    return outcome(command, CheckpointSpec(root="file:///my runs/ü"), ended, known)


def test_a_complete_run_is_followed_by_its_report() -> None:
    assert lines("completed", 40) == (
        "result  tiny: all 40 steps are done, loss 2.5000, held-out loss 2.2500 (1.5000 bits per byte)",
        "kept    /my runs/ü: the checkpoint of step 40, and the history of the run",
        "report  halcyon report '/my runs/ü'",
    )


def test_a_run_that_stopped_can_go_on() -> None:
    """By the command as it was typed, with its options."""
    result, _, follows, report = lines("preempted", 12)
    assert "12 of 40 steps are done" in result
    assert follows == "next    halcyon train 'my run.yaml' --checkpoint-root '/my runs/ü'"
    assert report == "report  halcyon report '/my runs/ü'"


def test_a_run_that_kept_nothing_has_no_such_lines() -> None:
    assert lines("failed", 3, saved=False) == ()
