"""One trainer process, from the run document to its exit code.

Every end writes a log event and a termination report, and has the exit code of its cause (`halcyon_api.ends`). The
process exits with ``os._exit``: after a lost process, JAX's atexit hooks would wait for that process in the normal
shutdown of the interpreter.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from halcyon.host.agent.link import Link
from halcyon.host.documents import set_variables
from halcyon.host.errors import BadConfiguration, Corrupted, Fenced, TrainerExit
from halcyon.host.last_resort import call_after, end_within
from halcyon.host.linux import keep_freed_memory, raise_memory_lock
from halcyon.host.output import lossy, say_lost
from halcyon.host.root_lock import held_root
from halcyon.host.roots import move_aside
from halcyon.host.signals import SignalThread, ending_signals
from halcyon.host.storage.metadata_server import wait_for_server
from halcyon.host.storage.retry_budget import SOURCES, RetryBudget
from halcyon.run.branch import Branch
from halcyon.run.context import Context, Surroundings, resolve_context, retry_seconds, run_plan
from halcyon.run.last_save import MARGIN_SECONDS, NOTHING_TO_SAVE, NOTICE, LastSave, SaveTime
from halcyon.run.outcome import error_outcome, in_words
from halcyon.telemetry import (
    ProfileRequests,
    RunIdentity,
    RunReporter,
    SaveRequests,
    TelemetryServer,
    open_log,
    termination_report,
    write_termination_report,
)
from halcyon.telemetry.health import STORE_SECONDS, Watchdog
from halcyon.telemetry.termination import STACKS_LENGTH, clip, outcome
from halcyon_api.ends import EndCause
from halcyon_api.spec.checkpoint import normal_root
from halcyon_api.status.progress import Stage as WorkStage
from halcyon_api.training_run import Task

if TYPE_CHECKING:
    from halcyon.parallel.process_group import ProcessGroup

Result = TypeVar("Result")
_NOTICE_MESSAGES = {
    "data": f"{NOTICE}; the committed shards of the token caches are kept",
    "evaluate": f"{NOTICE}; the results of the evaluated sources are kept",
    "sample": f"{NOTICE}; the answers of finished batches are kept",
}
"""The message of a process that ends at a notice while no step runs, for tasks that keep something anyway."""
_WORK: dict[Task, WorkStage] = {
    "train": "training",
    "data": "tokenizing",
    "evaluate": "evaluating",
    "replay": "training",
    "measure": "evaluating",
    "sample": "sampling",
}
"""The stage in which each task does its productive work."""
CLOSING_SECONDS = 30.0
"""Longest time at the end of a completed run in which its history, and its trackers, keep what they have received."""
LEAVING_SECONDS = 0.7
"""The same for a pod that ends early: less than the time that the last save leaves for the exit
(`halcyon.run.last_save`).
"""
_REST_SECONDS = 10.0
"""Longest time for all else of an end."""
_LIFELINE_SECONDS = 1.0
"""Longest wait for the lifeline's report of a lost process after an unexpected error.

The kernel reports it in milliseconds.
"""


def _seconds_left(context: Context) -> float | None:
    """Seconds until `spec.budget.until`. None: the budget has no time, or the operator ends the run.

    Raises:
        BadConfiguration: The time has passed.
    """
    budget = context.spec.budget
    if context.in_pod or budget is None or budget.until is None:
        return None
    left = datetime.fromisoformat(budget.until).timestamp() - time.time()
    if left <= 0:
        raise BadConfiguration(f"spec.budget.until: {budget.until} has passed; give the run a later time")
    return left


def run_training(
    document: Path,
    environ: Mapping[str, str],
    *,
    checkpoint_root: str | None,
    json_lines: bool | None,
    compilation_cache: Path | None,
    defaults: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    on_cpu: bool = False,
    fresh: bool = False,
    branch: Branch | None = None,
    command: str = "halcyon train",
    takes_over: Callable[[str], bool] = lambda sentence: False,
    link: Link | None = None,
) -> NoReturn:
    """Run the task of the document and exit. The exit code says how the run ended.

    Args:
        document: Path of the ``run.yaml``.
        environ: The process's environment.
        checkpoint_root: Replaces ``spec.checkpoint.root``.
        json_lines: True: always write JSON lines. False: never. Default: unless standard output is a terminal.
        compilation_cache: See `halcyon.run.train.train`.
        defaults: Files of TrainingRunDefaults for fields that the document does not set.
        overrides: Changes of the document, each ``PATH=VALUE``.
        on_cpu: Train on the processor instead of the document's accelerator.
        fresh: Rename the folder of the checkpoint root, so that the run begins again.
        branch: Train a branch of the document's run instead.
        command: What the user typed, which goes on with the run.
        takes_over: Whether to stop another process of this machine that trains in the root, as the sentence says. Not
            asked in a pod, whose newer attempt takes the root from an older one.
        link: The connection to the supervisor of the pod.
    """
    held = ExitStack()  # until the process exits
    try:
        context = resolve_context(
            document,
            environ,
            checkpoint_root=checkpoint_root,
            defaults=defaults,
            on_cpu=on_cpu,
            overrides=overrides,
        )
        context = replace(context, link=link)
        budget = _seconds_left(context)
        unset = set_variables(context.spec.env, os.environ)
        raise_memory_lock()
        if context.own_devices is not None:
            # early: each thread that exists already may have a heap of its own, which would keep memory too
            keep_freed_memory()
        if branch is not None:
            from halcyon.run.branching import branched  # imports JAX, so only after the variables of the document

            context = branched(context, branch)
        spec = context.spec
        if spec.task == "train" and not context.in_pod and link is None:
            held.enter_context(held_root(spec.checkpoint.root, command, takes_over=takes_over))
        aside = move_aside(spec, document) if fresh else None
    except TrainerExit as error:
        _leave_unstarted(error, environ)
    identity, trains = context.identity, spec.has_steps
    log = open_log(_own_stdout(), identity, steps=spec.trainer.steps if trains else None, json_lines=json_lines)
    reporter = RunReporter(
        identity,
        run_plan(context),
        log,
        floor_seconds=float(spec.recovery.step_timeout_seconds),
        work=_WORK[spec.task],
        age_seconds=link and link.age_seconds,
    )
    ending = _Ending(command, context, reporter)
    requests, profile_requests = SaveRequests(), ProfileRequests()
    retry_budget = RetryBudget(
        retry_seconds(context),
        on_wait=functools.partial(_report_refused, reporter, context),
        on_end=reporter.store_wait_ended,
    )
    signal.signal(signal.SIGUSR1, requests.signalled)
    signal.signal(signal.SIGUSR2, profile_requests.signalled)
    try:
        SignalThread(ending_signals(), ending.before_joining, name="halcyon-early-notice")
        if budget is not None:
            call_after(budget, lambda: os.kill(os.getpid(), signal.SIGTERM))
        server = _server(context, reporter, requests, profile_requests)
        watchdog = _watchdog(context, reporter, ending)
        around = Surroundings(
            retry_budget,
            ending.lost,
            ending.failed,
            functools.partial(_share_hangs, watchdog),
            ending.interrupted,
            requests,
            profile_requests,
            ending.fails,
            ending.noticed,
        )
        if trains and context.process_index == 0 and spec.telemetry.trackers is not None:
            from halcyon.telemetry.trackers.opening import open_trackers  # imports TensorStore, so only with trackers

            open_trackers(context.run, reporter, document)
        reporter.event("start", process_id=os.getpid())
        if aside is not None:
            reporter.warning(f"the run begins again; its earlier checkpoints are in {aside}")
        for sentence in unset:
            reporter.warning(sentence)
        if context.in_pod:
            wait_for_server(spec.checkpoint.root, environ, retry_budget)
        # The modules of a task import JAX or libraries that read text, which is slow: /status answers already.
        if spec.task == "data":
            from halcyon.run.data import build_data

            ending.leave(EndCause.COMPLETED, build_data(context, reporter, around))
        if spec.task in ("evaluate", "measure"):
            from halcyon.run.evaluate import evaluate_checkpoint
            from halcyon.run.measure import measure_network

            task = evaluate_checkpoint if spec.task == "evaluate" else measure_network
            ending.leave(EndCause.COMPLETED, task(context, reporter, around))
        if spec.task == "sample":
            from halcyon.run.policy.sampler import sample_answers

            ending.leave(EndCause.COMPLETED, sample_answers(context, reporter, around, compilation_cache))
        from halcyon.run.train import train

        ended = train(context, reporter, around, compilation_cache=compilation_cache)
        watchdog.close()
        server.close()
    except Exception as error:
        ending.failed(error)
    cause, message, facts = ended.outcome(spec.trainer.steps)
    ending.leave(cause, ending.in_words(message), **facts)


def _server(
    context: Context, reporter: RunReporter, requests: SaveRequests, profiles: ProfileRequests
) -> TelemetryServer:
    """The run's HTTP server.

    If the port is in use on the user's own machine, it takes a free port and logs a warning with its number.
    """
    port, trains = context.spec.telemetry.port, context.spec.task == "train"
    serve = functools.partial(
        TelemetryServer,
        reporter,
        in_pod=context.in_pod,
        requests=requests if trains else None,
        token=context.save_token,
        profiles=profiles if trains else None,
    )
    try:
        return serve(port)
    except BadConfiguration:
        if context.in_pod:
            raise
    server = serve(0)
    reporter.warning(
        f"port {port} is in use on this machine, so /status and /metrics are at http://localhost:{server.port}"
    )
    return server


class _Ending:
    """Reports the end of the process and exits."""

    def __init__(self, command: str, context: Context, reporter: RunReporter) -> None:
        self._command = command
        self._context = context
        self._reporter = reporter
        self._once = threading.RLock()
        self._cause = None
        self._interrupts = 0

    def leave(self, cause: EndCause, message: str, **facts: Any) -> NoReturn:
        """Write the termination report and the log event, and exit.

        A step that fails neither prevents the next one nor changes the exit code, and none keeps the process longer
        than its deadline.

        Args:
            cause: Why the process ends.
            message: One sentence about it.
            facts: Further fields of the termination report.
        """
        # never released: several threads may end the process at the same time, and the first one gives the cause
        if not self._once.acquire(blocking=False):
            if self._cause is not None and self._interrupts > 1:
                _exit(self._cause)
            threading.Event().wait()  # the first thread ends the process, at its deadline at the latest
        if self._cause is not None:  # a step of the end has failed in this thread
            _exit(self._cause)
        self._cause = cause
        context, reporter = self._context, self._reporter
        has_time = cause == EndCause.COMPLETED or not context.in_pod
        seconds = CLOSING_SECONDS if has_time else LEAVING_SECONDS
        # A preempted pod has no more than its last save left.
        is_late = cause == EndCause.PREEMPTED and context.in_pod
        end_within(MARGIN_SECONDS if is_late else seconds + _REST_SECONDS, cause.exit_code)
        try:
            known = _tried(reporter.report)
            if known is not None:
                saved = known.checkpoint.step if known.checkpoint else None
                facts |= {"step": known.progress.step, "checkpoint_step": saved, "seconds": known.seconds}
                if context.process_index == 0:
                    facts["progress"] = known.progress
            report = termination_report(reporter.identity, cause=cause, message=message, **facts)
            problem = _tried(lambda: write_termination_report(context.termination_log, report))
            if problem:
                _tried(lambda: reporter.warning(problem))
            _tried(lambda: reporter.ended(report))
            _tried(lambda: reporter.close_listeners(seconds))
            _tried(reporter.log.close)
            if known is not None and not context.in_pod and context.link is None and context.spec.task == "train":
                lines = outcome(self._command, context.spec.checkpoint, report, known)
                sys.stderr.writelines(f"{line}\n" for line in lines)
        finally:
            _exit(cause)

    def failed(self, error: Exception) -> NoReturn:
        """End the process after an error: a `TrainerExit`, or an unexpected error."""
        if isinstance(error, TrainerExit):
            owner = error.owner_attempt if isinstance(error, Fenced) else None
            reason, peer = self.in_words(str(error)), None
            if isinstance(error, Corrupted) and self._context.process_index not in error.processes:
                peer = error.processes[0]  # that process has the cause
            others = error.others_missing or None
            self.leave(error.cause, reason, epoch_attempt=owner, peer_lost=peer, others_missing=others)
        cause, sentence, known = error_outcome(error)
        if known:
            self.leave(cause, sentence)
        traceback.print_exception(error)
        if self._context.process_count > 1:
            # A collective may fail because of a lost process before the lifeline reports it. JAX raises one of several
            # types then, also a plain ValueError. Wait for `lost`, which reports the index of the process.
            threading.Event().wait(_LIFELINE_SECONDS)
        self.leave(cause, sentence)

    def fails(self, error: Exception) -> None:
        """End the process after an error, though what the training has opened cannot be closed."""
        call_after(CLOSING_SECONDS, lambda: self.failed(error))

    def noticed(self) -> None:
        """End a pod as preempted before it is killed, though its main thread compiles or waits for a store."""
        grace = self._context.grace_seconds
        if grace is not None and grace > MARGIN_SECONDS:
            call_after(grace - MARGIN_SECONDS / 2, self._end_late)

    def _end_late(self) -> None:
        if self._cause is not None:
            return
        end_within(MARGIN_SECONDS / 3, EndCause.PREEMPTED.exit_code)
        known = self._reporter.report()
        saved = known.checkpoint.step if known.checkpoint else 0
        budget = SaveTime(None, None, None)
        end = LastSave("none", known.progress.step, saved, budget, "the process did not stop in time")
        self.leave(EndCause.PREEMPTED, end.sentence(), saved=end.saved)

    def hung(self, message: str) -> NoReturn:
        """End a hung process. A restart may help, so this is an ordinary failure."""
        self.leave(EndCause.HUNG, message)

    def lost(self, process: int) -> NoReturn:
        """End the process after another process was lost.

        The report of the lost process, or its absence, gives the cause.
        """
        self.leave(EndCause.FAILED, f"process {process} is gone, so this one ended too", peer_lost=process)

    def interrupted(self, count: int) -> None:
        """Handle Ctrl-C: the first is a notice, after which the run saves; the second ends the process at once."""
        self._interrupts = count
        if count == 1:
            self._reporter.warning("stopping: the run saves its last step and ends; a second Ctrl-C ends it at once")
            return
        saved = self._reporter.report().checkpoint
        again = (
            f"the checkpoint of step {saved.step}"
            if saved is not None
            else "the beginning, because there is no checkpoint yet"
        )
        self.leave(EndCause.FAILED, f"stopped by you at once; start again to go on from {again}")

    def in_words(self, message: str) -> str:
        """The message of an end after a notice, in the words of the user's own machine if the process runs there."""
        return message if self._context.in_pod else in_words(message, self._interrupts)

    def before_joining(self, signals: bytes) -> None:
        """Handle notices while there is nothing to save: exit at once as preempted, which costs no retry. Not for the
        main thread.

        Args:
            signals: The numbers of the signals that came.
        """
        if signal.SIGTERM not in signals and signal.SIGINT not in signals:
            return
        self._interrupts += signals.count(signal.SIGINT)
        self.leave(EndCause.PREEMPTED, self.in_words(_NOTICE_MESSAGES.get(self._context.spec.task, NOTHING_TO_SAVE)))


def _watchdog(context: Context, reporter: RunReporter, ending: _Ending) -> Watchdog:
    """Ends a process that hangs, after it has reported and kept its stacks."""
    return Watchdog(
        reporter.health,
        lambda health, stacks, path: reporter.event(
            "hung",
            seconds=health.idle_seconds,
            limit_seconds=health.limit_seconds,
            path=path,
            stacks=clip(stacks, STACKS_LENGTH),
        ),
        functools.partial(_keep_stacks, context),
        ending.hung,
        on_pause=lambda seconds: reporter.adds(paused_seconds=seconds),
    )


def _share_hangs(watchdog: Watchdog, processes: ProcessGroup) -> None:
    """Let the watchdogs of all processes write stacks when one of them hangs."""
    if processes.lifeline is not None:
        processes.lifeline.listen_hung(watchdog.other_hangs)
        watchdog.tell(processes.lifeline.say_hung)


def _report_refused(reporter: RunReporter, context: Context, root: str, failure: Exception, seconds: float) -> None:
    end = "" if context.in_pod else "; Ctrl-C ends the run now"
    if root == SOURCES:
        reporter.store_refuses("dataSource", str(failure), seconds, end=end)
        return
    what = "checkpointRoot" if root == normal_root(context.spec.checkpoint.root) else "tokenCache"
    reporter.store_refuses(what, f"{root} refuses access ({failure})", seconds, end=end)


def _keep_stacks(context: Context, stacks: str) -> str:
    # It imports TensorStore, which the loop has imported by then.
    from halcyon.telemetry.diagnostics import keep_stacks

    return keep_stacks(context.spec.checkpoint, context.identity, stacks, timeout_seconds=STORE_SECONDS)


def _own_stdout() -> TextIO:
    """Standard output for the log alone: what libraries such as gloo, and programs of the user, print goes to standard
    error.
    """
    own = lossy(sys.stdout, 1, say_lost)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


def _tried(step: Callable[[], Result]) -> Result | None:
    """The result of a step of the end; None if it fails."""
    try:
        return step()
    except BaseException as error:
        with suppress(BaseException):
            traceback.print_exception(error)
        return None


def _leave_unstarted(error: TrainerExit, environ: Mapping[str, str]) -> NoReturn:
    """End a process whose document is not valid.

    There is no log yet: the error goes to the termination log and standard error.
    """
    end_within(_REST_SECONDS, error.cause.exit_code)
    report = termination_report(RunIdentity(run=""), cause=error.cause, message=str(error))
    if "HALCYON_TERMINATION_LOG" in environ:
        write_termination_report(Path(environ["HALCYON_TERMINATION_LOG"]), report)
    sys.stderr.write(f"{error}\n")
    _exit(error.cause)


def _exit(cause: EndCause) -> NoReturn:
    os._exit(cause.exit_code)
