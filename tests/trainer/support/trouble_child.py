"""``halcyon`` with deliberate faults and hangs: ``python -m tests.trainer.support.trouble_child train RUN.YAML ...``.

Steps are counted from 0. A process that hangs cannot end before the test acts on it, on a machine of any speed.

HANG=STEP,PROCESS: that process never gets the batch of that step. PATIENT=PROCESS: that process waits a thousand times
longer for a step before it hangs. AWAIT_NOTICE=STEP,PROCESS: that process gets the batch of that step only after the
processes agreed on their last step after a notice. HANG_EVALUATING=BATCHES: every process of a run that only evaluates
hangs after this number of batches. NOTICE_EVALUATING=NUMBER,PROCESS: that process gets a notice before the second batch
of the evaluation with this number, counted from 0. POISON=STEP: the loss weights of that step are NaN.
STALL_EXPORT=STEP,PROCESS: that process writes no file of the export after that many steps. EXPORT_FILE_BYTES: the
largest file of an export. HANG_TASK=NAME: that task of an evaluation goes on until a notice comes. HANG_JOINING=1: the
process writes `JOINING` to standard error, and its main thread then waits and never joins the others.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from halcyon.commands.main import app
from halcyon.data.loader import Loader
from halcyon.host.storage.failures import Abandoned
from halcyon.parallel.sync_point import SyncPoint
from halcyon.run import benchmarks
from halcyon.run import process as trainer_process
from halcyon.step import validation
from halcyon.telemetry import RunReporter
from halcyon.weights import background
from halcyon.weights.background import Exporter

JOINING = "waits and never joins"
batch, evaluated_batch, create_sync_point = Loader.batch, RunReporter.evaluated_batch, SyncPoint.__init__
begin_stage = RunReporter.stage
sync_points: list[SyncPoint] = []
evaluated: list[RunReporter] = []
evaluate = validation.evaluate
evaluations = itertools.count()
write_share = Exporter._write_share
asked = benchmarks.SharedRunner._asked


def concerns(variable: str, step: int) -> bool:
    """Whether a variable names this step and this process."""
    wanted_step, process = (int(part) for part in os.environ.get(variable, "-1,-1").split(","))
    return step == wanted_step and int(os.environ["HALCYON_JOB_INDEX"]) == process


def troubled_batch(loader: Loader, step: int, *rest: Any) -> Any:
    if concerns("HANG", step):
        wait_for_a_batch_that_never_comes()
    if concerns("AWAIT_NOTICE", step):
        wait_until_all_leave()
    poisoned = int(os.environ.get("POISON", "-2"))
    made = batch(loader, step, *rest)
    return {**made, "weights": made["weights"] * float("nan")} if step == poisoned else made


def wait_for_a_batch_that_never_comes() -> None:
    threading.Event().wait()


def wait_until_all_leave() -> None:
    (point,) = sync_points
    with point._changed:
        point._changed.wait_for(lambda: point._stop_after is not None)


def known_sync_point(point: SyncPoint, *arguments: Any, **options: Any) -> None:
    create_sync_point(point, *arguments, **options)
    sync_points.append(point)


def hanging_evaluation(reporter: RunReporter) -> None:
    evaluated_batch(reporter)
    evaluated.append(reporter)
    if len(evaluated) == int(os.environ.get("HANG_EVALUATING", "-1")):
        wait_for_a_batch_that_never_comes()


def noticed_evaluation(*arguments: Any, before_batch: Callable[[], object], **options: Any) -> Any:
    number, batches = next(evaluations), itertools.count()

    def before() -> None:
        if next(batches) == 1 and concerns("NOTICE_EVALUATING", number):
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until_all_leave()
        before_batch()

    return evaluate(*arguments, before_batch=before, **options)


def hanging_stage(reporter: RunReporter, stage: Any) -> None:
    begin_stage(reporter, stage)
    if stage == "joining" and "HANG_JOINING" in os.environ:
        print(JOINING, file=sys.stderr, flush=True)
        threading.Event().wait()


def stalled_share(exporter: Exporter, one: Any) -> None:
    if concerns("STALL_EXPORT", one.entry.step):
        exporter._abandoned.wait()
        raise Abandoned
    write_share(exporter, one)


def endless_task(shared: benchmarks.SharedRunner, runner: Any, chosen: Any) -> Any:
    while chosen.name == os.environ.get("HANG_TASK"):
        shared._on_progress()  # raises an exception after a notice
        time.sleep(0.01)
    return asked(shared, runner, chosen)


def install() -> None:
    """Put the trouble into the trainer's classes."""
    if os.environ.get("PATIENT") == os.environ["HALCYON_JOB_INDEX"]:
        trainer_process.RunReporter = lambda *args, floor_seconds, **rest: RunReporter(  # type: ignore[assignment, misc]
            *args, floor_seconds=1000 * floor_seconds, **rest
        )
    Loader.batch = troubled_batch  # type: ignore[method-assign]
    Exporter._write_share = stalled_share  # type: ignore[method-assign]
    benchmarks.SharedRunner._asked = endless_task  # type: ignore[method-assign]
    validation.evaluate = noticed_evaluation
    background.FILE_BYTES = int(os.environ.get("EXPORT_FILE_BYTES", background.FILE_BYTES))
    SyncPoint.__init__ = known_sync_point  # type: ignore[method-assign]
    RunReporter.stage = hanging_stage  # type: ignore[method-assign]
    RunReporter.evaluated_batch = hanging_evaluation  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    app()
