"""Each call of the loop appears in the report, in the log and in the health verdict."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic.alias_generators import to_snake

from halcyon.checkpoint.results import SaveUnderWay
from halcyon.data.layout.spans import LayoutReport
from halcyon.data.source_notes import SourceNote
from halcyon.host.clock import process_age_seconds
from halcyon.parallel.collectives import Measured
from halcyon.step.device_use import event_fields
from halcyon.telemetry import state, termination_report
from halcyon.telemetry.diagnostics import percentiles, step_percentiles
from halcyon.telemetry.events import BY_NAME
from halcyon_api.checkpoint_documents import OriginRecord
from halcyon_api.ends import EndCause
from halcyon_api.result_documents import CORE_TASKS, TaskNumbers, TaskResults
from halcyon_api.spec.trainer import in_effect
from halcyon_api.status.evaluation import EvaluatedSets, Evaluation
from halcyon_api.status.goodput import GoodputSeconds
from halcyon_api.status.progress import Evaluated, Progress, ProgressReport, StartupSeconds
from tests.trainer.step.plans import PLAN
from tests.trainer.telemetry.fakes import FOUND, IDENTITY, Scene, built, committed, step_report

COMMON = {"event", "time", "run", "attempt", "restart", "inPlace", "process"}
"""Fields of every line."""


def test_a_new_process() -> None:
    scene = Scene()
    report = scene.reporter.report()
    assert report.document() == {
        "run": "demo",
        "attempt": 3,
        "restart": 1,
        "processIndex": 0,
        "inPlace": 0,
        "stage": "starting",
        "startedAt": "2026-03-01T11:59:58.000Z",
        "time": "2026-03-01T12:00:00.000Z",
        "seconds": GoodputSeconds(startup=2).document(),
        "startupSeconds": {"imports": 0.0, "join": 0.0, "data": 0.0, "restore": 0.0, "compile": 0.0},
        "progress": {"step": 0, "steps": 100, "tokens": 0},
    }


def test_the_start_is_reported_in_its_parts() -> None:
    scene = Scene()
    scene.start()
    assert scene.reporter.report().startup_seconds == StartupSeconds(imports=2, join=1, restore=2, compile=0)
    scene.steps(1, 3)
    report = scene.reporter.report()
    assert report.stage == "training"
    assert report.startup_seconds == StartupSeconds(imports=2, join=1, restore=2, compile=3)
    assert report.first_step_at == "2026-03-01T12:00:06.000Z"
    assert report.last_step_at == "2026-03-01T12:00:07.000Z"
    (compiled,) = scene.named("compiled")
    assert {
        name: compiled[name] for name in ("step", "importsSeconds", "joinSeconds", "restoreSeconds", "compileSeconds")
    } == {
        "step": 1,
        "importsSeconds": 2,
        "joinSeconds": 1,
        "restoreSeconds": 2,
        "compileSeconds": 3,
    }


def test_stages_after_the_first_step_are_no_part_of_the_start() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 2)
    for stage in ("evaluating", "training", "saving", "joining"):
        scene.reporter.stage(stage)
        scene.time.pass_(100)
    assert scene.reporter.report().startup_seconds == StartupSeconds(imports=2, join=1, restore=2, compile=3)


def test_a_stage_that_comes_twice_adds_up() -> None:
    scene = Scene()
    scene.reporter.stage("restoring")
    scene.time.pass_(1)
    scene.reporter.stage("compiling")
    scene.time.pass_(10)
    scene.reporter.stage("restoring")
    scene.time.pass_(2)
    scene.reporter.stage("training")
    scene.time.pass_(5)
    scene.reporter.step_done(step_report(1))
    assert scene.reporter.report().startup_seconds == StartupSeconds(imports=2, restore=3, compile=15)


def test_progress_and_speed() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 5, seconds=0.5)
    progress = scene.reporter.report().progress
    assert (progress.step, progress.steps, progress.tokens, progress.loss) == (5, 100, 5 * 4096, 2.5)
    assert progress.tokens_per_second == pytest.approx(2 * 4096)
    assert progress.eta_seconds == pytest.approx(95 / 2)
    assert progress.mfu is None


def test_a_resumed_run_counts_from_its_beginning() -> None:
    scene = Scene()
    scene.start(resumed_step=40)
    report = scene.reporter.report()
    assert (report.resumed_step, report.progress.step, report.progress.tokens) == (40, 40, 40 * 4096)
    scene.steps(41, 50)
    seen = scene.reporter.observe()
    assert (seen.step, seen.tokens) == (50, 50 * 4096)
    assert (seen.processed_steps, seen.processed_tokens) == (10, 10 * 4096)
    (restored,) = scene.named("restored")
    assert (restored["step"], restored["path"], restored["seconds"]) == (40, "steps/x/", 2)


def test_steps_of_different_sizes_count_as_many_tokens_as_they_have() -> None:
    """Batches of 1000 tokens for 50 steps, then of 4000."""
    scene = Scene(
        tokens_before=lambda step: 1000 * min(step, 50) + 4000 * max(0, step - 50),
        flops_per_token=1.0,
        peak_flops_per_second=1e5,
    )
    scene.start(resumed_step=40)
    scene.steps(41, 50, seconds=0.5)
    seen = scene.reporter.observe()
    assert (seen.tokens, seen.tokens_per_second) == (50_000, 2000)
    scene.steps(51, 60, seconds=0.5)
    seen = scene.reporter.observe()
    assert (seen.tokens, seen.tokens_per_second) == (90_000, 8000)
    assert seen.processed_tokens == 10 * 1000 + 10 * 4000
    assert seen.mfu == pytest.approx(0.08)


def test_the_flops_of_a_token_may_be_set_later() -> None:
    scene = Scene(peak_flops_per_second=2 * 4096 * 1e6 / 0.4)
    scene.start()
    scene.steps(1, 5, seconds=0.5)
    assert scene.reporter.report().progress.mfu is None
    scene.reporter.knows(flops_per_token=1e6)
    assert scene.reporter.report().progress.mfu == pytest.approx(0.4)


def test_the_implementations_of_attention_are_named_once() -> None:
    scene = Scene()
    scene.reporter.attends({"reference": "64 positions are few"})
    scene.reporter.attends({"reference": "64 positions are few", "blockwise": "4096 positions"})
    assert scene.reporter.report().progress.attention == "reference, blockwise"
    printed = [(event["implementation"], event["reason"]) for event in scene.named("attention")]
    assert printed == [("reference", "64 positions are few"), ("blockwise", "4096 positions")]


def test_the_status_has_the_determinism_in_effect_and_the_log_its_meaning() -> None:
    scene = Scene()
    assert scene.reporter.report().progress.determinism is None
    scene.reporter.event("determinism", in_effect("fast", "gpu"))
    assert scene.reporter.report().progress.determinism == "fast"
    assert [(event["determinism"], event["meaning"]) for event in scene.named("determinism")] == [
        ("fast", in_effect("fast", "gpu").meaning)
    ]


@pytest.mark.parametrize("process_index", [0, 1])
def test_tokenizing_is_a_part_of_the_start_and_is_reported_at_intervals(process_index: int) -> None:
    scene = Scene(process_index=process_index)
    scene.reporter.stage("tokenizing")
    for rows in range(1, 26):
        scene.reporter.tokenized(built(rows))
        scene.time.pass_(1)
    assert scene.reporter.report().stage == "tokenizing"
    assert scene.reporter.health().idle_seconds == 1
    scene.reporter.tokenized(built(26, finished=True))
    scene.reporter.tokenized(built(3, source="code", finished=True))
    scene.start()
    scene.steps(1, 1)
    assert scene.reporter.report().startup_seconds == StartupSeconds(imports=2, data=25, join=1, restore=2, compile=3)
    printed = scene.named("tokenized")
    assert [(event["source"], event["rows"], event["finished"]) for event in printed] == [
        *(("web", 1, False), ("web", 11, False), ("web", 21, False), ("web", 26, True)),
        ("code", 3, True),
    ]
    assert {name: value for name, value in printed[3].items() if name not in COMMON} == {
        "source": "web",
        "rows": 26,
        "documents": 25,
        "tokens": 26_000,
        "sizeBytes": 104_000,
        "shards": 1,
        "finished": True,
    }
    if process_index == 0:
        assert scene.named("compiled")[0]["dataSeconds"] == 25
    assert {(source.source, source.rows) for source in scene.reporter.observe().sources.values()} == {
        ("web", 26),
        ("code", 3),
    }


def test_every_second_of_a_start_has_one_part_also_during_background_tokenizing() -> None:
    """Tokenizing runs in another thread all the time, and counts only while the loop waits for it."""
    scene = Scene()
    reporter, rows = scene.reporter, iter(range(1, 100))

    def seconds_of_tokenizing(seconds: int) -> None:
        for _ in range(seconds):
            reporter.tokenized(built(next(rows)))
            scene.time.pass_(1)

    for stage, seconds in (("joining", 5), ("tokenizing", 7), ("restoring", 3), ("compiling", 4)):
        reporter.stage(stage)
        seconds_of_tokenizing(seconds)
        assert reporter.report().stage == stage
        if stage == "joining":
            reporter.event("joined", processes=2, devices=2, seconds=reporter.seconds_in_stage())
    began = scene.time.now
    reporter.step_done(step_report(1))
    seconds_of_tokenizing(20)
    report = reporter.report()
    assert report.stage == "training"
    assert report.startup_seconds == StartupSeconds(imports=2, join=5, data=7, restore=3, compile=4)
    assert sum(report.startup_seconds.model_dump().values()) == began - 1000.0 + 2.0
    assert scene.named("joined")[0]["seconds"] == 5
    assert reporter.health().idle_seconds == 20, "it waits for a step, and tokenizing is no step"


def test_tokenizing_counts_as_progress_while_the_loop_waits_for_it() -> None:
    scene = Scene()
    scene.reporter.stage("tokenizing")
    for _ in range(3):
        scene.time.pass_(7000)
        assert scene.reporter.health().healthy
        scene.reporter.tokenized(built(1))
    scene.time.pass_(7201)
    assert not scene.reporter.health().healthy


def test_another_thread_can_report_tokens_while_steps_are_reported() -> None:
    scene = Scene(steps=100_000)
    scene.start()

    def tokenize() -> None:
        for rows in range(1, 2000):
            scene.reporter.tokenized(built(rows))

    other = threading.Thread(target=tokenize)
    other.start()
    scene.steps(1, 500)
    other.join()
    seen = scene.reporter.observe()
    assert (seen.stage, seen.step, seen.sources["web"].rows) == ("training", 500, 1999)
    assert seen.startup_seconds == StartupSeconds(imports=2, join=1, restore=2, compile=3)


@pytest.mark.parametrize(("process_index", "logged"), [(0, True), (1, False)])
def test_process_0_alone_logs_steps(process_index: int, logged: bool) -> None:
    scene = Scene(process_index=process_index)
    scene.start()
    scene.steps(1, 2)
    scene.reporter.event("checkpoint", committed(2), blocked_seconds=None)
    names = {event["event"] for event in scene.events}
    assert {"start", "joined"} <= names
    assert ({"restored", "compiled", "step", "checkpoint"} <= names) is logged
    assert scene.reporter.report().progress.step == 2


def test_steps_are_logged_as_often_as_asked_and_at_the_end() -> None:
    scene = Scene(log_every_steps=7, steps=24)
    scene.start()
    scene.steps(1, 24)
    assert [event["step"] for event in scene.named("step")] == [7, 14, 21, 24]


def test_a_step_in_the_log() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 3)
    first, _, third = scene.named("step")
    assert "tokensPerSecond" not in first
    assert {name: value for name, value in third.items() if name not in COMMON} == {
        "step": 3,
        "loss": 2.5,
        "gradientNorm": 1.25,
        "learningRate": 0.001,
        "tokens": 4000.0,
        "tokensPerSecond": 8192.0,
        "etaSeconds": 48.5,
        "dataWaitSeconds": 0.125,
    }


@pytest.mark.parametrize(("loss", "written"), [(math.nan, "NaN"), (math.inf, "Infinity")])
def test_a_diverged_run_still_reports(loss: float, written: str) -> None:
    scene = Scene()
    scene.start()
    scene.reporter.step_done(step_report(1, loss=loss))
    assert scene.reporter.report().progress.loss is None
    assert scene.named("step")[0]["loss"] == written


def test_an_evaluation_is_logged_and_reported() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 10)
    scene.evaluate(10, FOUND)
    progress = scene.reporter.report().progress
    assert (progress.evaluation_loss, progress.bits_per_byte) == (1.5, FOUND.bits_per_byte)
    (event,) = scene.named("evaluation")
    assert {name: value for name, value in event.items() if name not in COMMON} == {
        "step": 10,
        "loss": 1.5,
        "bitsPerByte": FOUND.bits_per_byte,
        "tokens": 1000,
        "sequences": 8,
        "seconds": 0.5,
    }


def test_checkpoints_and_failed_saves() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 20)
    scene.reporter.event("checkpointFailed", reason="x" * 5000)
    report = scene.reporter.report()
    assert report.checkpoint is None
    assert report.checkpoint_error is not None
    assert len(report.checkpoint_error) == 2048
    assert scene.named("checkpointFailed")[0]["step"] == 20
    scene.reporter.event("checkpoint", committed(20), blocked_seconds=0.25)
    report = scene.reporter.report()
    assert report.checkpoint_error is None
    assert report.checkpoint is not None
    assert report.checkpoint.document() == {
        "step": 20,
        "attempt": 3,
        "path": "steps/000000000020.000003.abcd/",
        "time": "2026-03-01T12:00:07.000Z",
        "sizeBytes": 123_456,
    }
    assert scene.named("checkpoint")[0]["blockedSeconds"] == 0.25


def test_a_checkpoint_found_at_the_start_is_shown_and_not_counted() -> None:
    scene = Scene()
    scene.reporter.found_checkpoint(committed(40, attempt=2))
    seen = scene.reporter.observe()
    assert seen.checkpoint is not None
    assert (seen.checkpoint.step, seen.checkpoint.attempt) == (40, 2)
    assert not seen.counts
    assert scene.events == []


def test_a_lost_head_is_reported() -> None:
    scene = Scene()
    scene.reporter.event("headRebuilt", step=20, reason="HEAD is empty")
    assert scene.reporter.report().head_loss == "HEAD is empty"
    assert [(event["step"], event["reason"]) for event in scene.named("headRebuilt")] == [(20, "HEAD is empty")]


def test_a_fallback_is_reported() -> None:
    scene = Scene()
    scene.reporter.event("fallback", step=20, reason="step 30: a chunk's checksum is wrong")
    assert scene.reporter.report().fallback_reason == "step 30: a chunk's checksum is wrong"
    assert [(event["step"], event["reason"]) for event in scene.named("fallback")] == [
        (20, "step 30: a chunk's checksum is wrong")
    ]


@pytest.mark.parametrize(
    ("cause", "event", "fields", "stage"),
    [
        (EndCause.COMPLETED, "done", {"step": 9, "message": "why"}, "done"),
        (EndCause.PREEMPTED, "preempted", {"step": 9, "message": "why"}, "starting"),
        (EndCause.FENCED, "error", {"step": 9, "cause": "fenced", "exitCode": 81, "message": "why"}, "starting"),
        (EndCause.FAILED, "error", {"step": 9, "cause": "failed", "exitCode": 1, "message": "why"}, "starting"),
    ],
)
def test_the_end_of_a_run_is_logged_with_its_cause(
    cause: EndCause, event: str, fields: dict[str, object], stage: str
) -> None:
    scene = Scene(process_index=1)
    scene.reporter.ended(termination_report(IDENTITY, cause=cause, message="why", step=9))
    (written,) = scene.events
    assert written["event"] == event
    assert {name: value for name, value in written.items() if name not in COMMON} == fields
    assert scene.reporter.report().stage == stage


def test_health_follows_the_steps() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 10, seconds=0.5)
    assert scene.reporter.health().healthy
    scene.time.pass_(61)
    assert not scene.reporter.health().healthy
    scene.reporter.stage("evaluating")
    assert scene.reporter.health().healthy
    scene.time.pass_(1000)
    assert scene.reporter.health().healthy
    scene.reporter.stage("training")
    scene.time.pass_(59)
    assert scene.reporter.health().healthy
    scene.time.pass_(2)
    assert not scene.reporter.health().healthy
    scene.reporter.step_done(step_report(11))
    assert scene.reporter.health().healthy


def test_a_resumed_evaluation_continues_its_count() -> None:
    scene = Scene(work="evaluating")
    reporter, time = scene.reporter, scene.time
    reporter.event("restored", step=2000, path="steps/2000/")
    reporter.evaluates(Evaluated(run="base", step=2000, path="steps/2000/"), batches=10, batch_tokens=512, done=4)
    assert (reporter.report().progress.step, reporter.report().resumed_step, reporter.report().stage) == (
        4,
        4,
        "starting",
    )
    reporter.stage("compiling")
    time.pass_(3)
    reporter.evaluated_batch()
    assert reporter.report().stage == "evaluating"
    assert reporter.report().first_step_at is not None
    for _ in range(4):
        time.pass_(5)
        reporter.evaluated_batch()
    scene.evaluate(2000, FOUND, source="book")
    report = reporter.report()
    assert report.progress.evaluation_loss is None, "the result of another source is missing"
    time.pass_(5)
    reporter.evaluated_batch()
    scene.evaluate(2000, FOUND)
    report = reporter.report()
    progress = report.progress
    assert (progress.step, progress.steps, progress.tokens, progress.evaluation_loss) == (10, 10, 5120, 1.5)
    assert progress.tokens_per_second == pytest.approx(512 / 5)
    assert progress.evaluated is not None
    (book,) = progress.evaluated.sources
    assert (book.source, book.loss, book.bits_per_byte, book.tokens, book.sequences) == (
        "book",
        1.5,
        FOUND.bits_per_byte,
        1000,
        8,
    )
    # Evaluation is the purpose of the run, so it is productive time and not evaluation time.
    assert (report.seconds.productive_step, report.seconds.compile, report.seconds.evaluation) == (25.0, 3.0, 0.0)
    assert [event["batch"] for event in scene.named("evaluating")] == [5, 7, 9, 10], (
        "one line every ten seconds, and the last one"
    )
    assert [event.get("source") for event in scene.named("evaluation")] == ["book", None]


def test_a_long_evaluation_is_alive_while_batches_end() -> None:
    scene = Scene(work="evaluating")
    scene.reporter.evaluates(Evaluated(run="base", step=1, path="steps/1/"), batches=10, batch_tokens=512)
    scene.reporter.stage("compiling")
    for _ in range(5):
        scene.reporter.evaluated_batch()
        scene.time.pass_(7000)
        assert scene.reporter.health().healthy
    scene.time.pass_(201)
    assert not scene.reporter.health().healthy


def test_tasks_of_an_evaluation_are_batches_without_tokens() -> None:
    scene = Scene(work="evaluating")
    scene.reporter.evaluates(Evaluated(run="base", step=1, path="steps/1/"), batches=2, batch_tokens=512, tasks=3)
    for _ in range(5):
        scene.reporter.evaluated_batch()
    found = scene.reporter.observe()
    assert (found.processed_steps, found.processed_tokens) == (5, 1024)
    assert (found.step, found.steps, found.tokens) == (5, 5, 1024)


def test_tokenizing_counts_as_the_work_of_a_data_run() -> None:
    scene = Scene(work="tokenizing")
    assert scene.reporter.report().first_step_at is None
    scene.reporter.stage("tokenizing")
    scene.reporter.tokenized(built(7))
    scene.time.pass_(5)
    scene.reporter.tokenized(built(9, finished=True))
    report = scene.reporter.report()
    assert report.first_step_at is not None
    assert (report.seconds.productive_step, report.seconds.data_wait) == (5.0, 0.0)


def test_a_late_save_is_reported_once_and_once_more_when_the_training_waits_for_it() -> None:
    scene = Scene(steps=9)
    scene.start()
    for seconds, silent_seconds, waits in (
        (9.0, 2.0, False),
        (15.0, 8.0, False),
        (21.0, 14.0, True),
        (22.0, 15.0, True),
    ):
        scene.reporter.late_save(SaveUnderWay(3, seconds, silent_seconds, True), waits=waits)
    late = [event for event in scene.events if event["event"] == "checkpointLate"]
    assert [event["waits"] for event in late] == [False, True]
    assert [event["message"] for event in late] == [
        "the save of step 3 takes longer than usual: 9 s so far; the training goes on, and the next save begins after it",
        "the save of step 3 takes longer than usual: 21 s so far, and the store has completed no request for 14 s; the "
        "training waits for it",
    ]
    shown = scene.reporter.report().late_save
    assert shown is not None
    assert (shown.step, shown.waits, shown.silent_since is not None) == (3, True, True)
    scene.reporter.late_save(None, waits=False)
    assert scene.reporter.report().late_save is None


def test_every_event_is_in_the_reference_and_has_its_fields() -> None:
    scene = Scene(steps=3)
    scene.reporter.knows(in_place=1)
    scene.reporter.stage("tokenizing")
    scene.reporter.tokenized(built(7, finished=True))
    scene.start(resumed_step=1)
    scene.reporter.event("restored", step=1, path="steps/x/", start="2", seconds=1.0, own_files=3, peer_files=1)
    scene.reporter.event("headRebuilt", step=1, reason="HEAD is empty")
    scene.reporter.event("fallback", step=1, reason="bits flipped")
    scene.reporter.event("kept", message="kept 2 tensors of mtp (1 kB) as they are")
    scene.reporter.attends({"reference": "few positions"})
    scene.reporter.event("determinism", in_effect("bitwise", "cpu"))
    scene.reporter.event("plan", plan=PLAN.sentence(), **event_fields(PLAN))
    assert scene.reporter.report().progress.plan == PLAN.sentence()
    scene.steps(2, 3)
    scene.evaluate(3, FOUND, average=FOUND)
    scene.evaluate(3, Evaluation(-4.0, 8.0, 0, 8, 0.5, {1: 4.0}, right=6.0))
    scene.reporter.evaluates(Evaluated(run="base", step=3, path="steps/3/"), batches=1, batch_tokens=64)
    scene.reporter.evaluated_batch()
    scene.evaluate(3, FOUND, source="book")
    parts = {
        name: Evaluation(nats=8.0, weight=4.0, size_bytes=4, sequences=1, seconds=0.1) for name in ("book", "code")
    }
    for name, report, fields in EvaluatedSets(parts["book"], parts, {"text": ("book",)}).events():
        scene.reporter.event(name, report, step=3, **fields)
    numbers = TaskNumbers(
        task="arc-easy",
        examples=2,
        accuracy=0.5,
        standard_error=0.5,
        centred=0.3,
        bits_per_byte=1.0,
        word_error_rate=0.5,
    )
    scene.reporter.event("task", numbers, step=3)
    of_core = tuple(TaskNumbers(task=f"core/{number}", examples=1) for number in range(CORE_TASKS))
    results = TaskResults(
        step=3, prompts="plain", tasks=(numbers, *of_core), core=0.1, finished=True, time="2026-01-01T00:00:00Z"
    )
    assert results.numbers == {"arc-easy": 0.5, "core": 0.1}
    scene.reporter.event("task", step=3, task="core", centred=0.1, tasks=22)
    scene.reporter.event("sample", step=3, prompt="def ", text="main():")
    origin = OriginRecord(run="base", root="file:///base", step=3, data_position=0, changes=("a is 1",))
    scene.reporter.event("branched", origin, from_run=origin.run, from_root=origin.root)
    scene.reporter.event("placed", **dict.fromkeys(map(to_snake, BY_NAME["placed"].fields), 1))
    scene.reporter.event(
        "profiled",
        step=2,
        steps=1,
        path="file:///checkpoints/profiles/2",
        size_bytes=9,
        mfu=0.4,
        **step_percentiles({"stepSeconds": percentiles([1.0])}),
    )
    scene.reporter.event("checkpoint", committed(3), blocked_seconds=0.1)
    scene.reporter.event("checkpointVerified", step=3)
    scene.reporter.event("checkpointFailed", reason="disk full")
    scene.reporter.late_save(SaveUnderWay(3, 9.0, 6.0, True), waits=False)
    scene.reporter.event("exported", step=3, path="file:///models/step-3", size_bytes=1, seconds=0.5)
    scene.reporter.event("exportFailed", step=3, reason="disk full")
    scene.reporter.event("skipped", step=3, reason="the loss is not a number")
    scene.reporter.watched(3, {"gradients/norm/embeddings": np.ones(1, np.float32)})
    scene.reporter.event("rolledBack", step=3, to_step=1, batches=2, reason="the loss is not a number")
    scene.reporter.event("audited", step=4, seconds=0.25)
    scene.reporter.event("corrupted", step=5, processes=(1,), message="copies of the state differ")
    scene.reporter.event("slow", step=5, slow_process=1, ratio=2.04)
    scene.reporter.event(
        "hung",
        seconds=61.0,
        limit_seconds=60.0,
        path="file:///checkpoints/diagnostics/hung-3.1-0.txt",
        stacks="Thread 0x1",
    )
    scene.reporter.event(
        "devices",
        flops=1,
        memory_bandwidth=2,
        host_bandwidth=3,
        promised_flops=4,
        promised_memory_bandwidth=5,
    )
    scene.reporter.event("collective", Measured("all-reduce", "all", 8, 2**20, 0.001, {}), promised=9e11)
    scene.reporter.event("sampled", batch=3, version=1, tokens=64, seconds=0.5)
    scene.reporter.warning("the compiled programs could not be published")
    scene.reporter.event(
        "source", SourceNote("talks", "ShareGPT: conversations", 9, 2, "1 hidden file", LayoutReport(2, 90, 5, 5, 0))
    )
    for cause in (EndCause.COMPLETED, EndCause.PREEMPTED, EndCause.FAILED):
        saved: Any = "step" if cause == EndCause.PREEMPTED else None
        ending = termination_report(IDENTITY, cause=cause, message="why", step=3, saved=saved)
        scene.reporter.ended(ending)
    seen: dict[str, set[str]] = {}
    for event in scene.events:
        assert event.keys() >= COMMON
        seen.setdefault(event["event"], set()).update(event.keys() - COMMON)
    assert seen.keys() == BY_NAME.keys()
    for name, fields in seen.items():
        if not BY_NAME[name].open_fields:
            assert fields == set(BY_NAME[name].fields), name


def test_reports_are_consistent_while_the_loop_continues() -> None:
    """A reader in another thread never gets a step without its tokens, nor a report that does not validate."""
    scene = Scene(steps=100_000)
    scene.start()
    stop = threading.Event()
    faults: list[object] = []

    def read() -> None:
        while not stop.is_set():
            report = ProgressReport.model_validate_json(scene.reporter.report().model_dump_json(by_alias=True))
            if report.progress.tokens != report.progress.step * 4096:
                faults.append(report)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    scene.steps(1, 500)
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []


def test_the_age_of_a_process_counts_from_its_start_not_from_its_imports() -> None:
    script = (
        "import time; time.sleep(0.3); from halcyon.host.clock import process_age_seconds; print(process_age_seconds())"
    )
    age = float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    assert age >= (0.29 if sys.platform == "linux" else 0.0)
    assert process_age_seconds() > 0


def test_telemetry_imports_neither_jax_nor_optional_packages() -> None:
    script = "import sys, halcyon.telemetry; print({'jax', 'numpy', 'prometheus_client', 'rich'} & sys.modules.keys())"
    assert (
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "set()\n"
    )


class _ProgressWithLoad(Progress):
    """`status.progress` with an additional field."""

    expert_load: float | None = None


def test_a_metric_of_the_objective_reaches_the_log_and_the_status_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state.progress, "Progress", _ProgressWithLoad)
    scene = Scene()
    scene.start()
    metrics = {"expert_load": 0.75, "other": 2.0, "loss": 9.0, "steps": 9.0}
    scene.reporter.step_done(replace(step_report(1), metrics=metrics))
    progress = scene.reporter.report().progress
    assert isinstance(progress, _ProgressWithLoad)
    assert (progress.expert_load, progress.loss, progress.steps) == (0.75, 2.5, 100), (
        "a metric must not replace an existing field"
    )
    (event,) = scene.named("step")
    assert (event["expertLoad"], event["other"], event["loss"]) == (0.75, 2.0, 2.5)
    assert scene.reporter.observe().last_step.metrics == metrics
