"""Decides about one run on hosts with the operator's own functions, and carries the decisions out.

A reconcile observes the processes, HEAD of the checkpoint root and the report of process 0, and writes the status into
the root before anything else is done. So a manager may be killed at any moment: its processes save and end, because the
standard input of each ends with it, and the next manager goes on from the status.
"""

import json
import secrets
import signal
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import HEAD_KEY, DamagedDocument, decode_head
from halcyon_api.ends import ExitCode
from halcyon_api.post_requests import SAVE_PATH
from halcyon_api.printable import printable
from halcyon_api.status.run_status import AT_REST, TrainingRunStatus
from halcyon_api.training_run import TrainingRun
from halcyon_cli.hosts.group import Group
from halcyon_cli.hosts.places import Places
from halcyon_cli.hosts.process import Surroundings
from halcyon_cli.hosts.rules import resumed
from halcyon_cli.hosts.views import STATUS_KEY, document_in, run_view, settings_for, written
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.status_writes import status_document
from halcyon_operator.model.decision import Decision, GuardPlan, JobSetPlan, SaveAsk
from halcyon_operator.model.endings import seen_endings
from halcyon_operator.model.history import last_cause
from halcyon_operator.model.untrusted import stamp
from halcyon_operator.model.views import HeadAbsent, HeadFound, HeadReading, HeadUnreachable, Observed
from halcyon_operator.observe.reports import MAX_REPORT_BYTES, ReportReading, parse_report

_STORE_SECONDS, _HTTP_SECONDS, _POLL_SECONDS = 20.0, 2.0, 0.2
_RETRY_SECONDS, _IDLE_SECONDS = 5.0, 20.0
_LONG_SECONDS = 60.0
"""Hosts of a queue are given back for a longer pause."""
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def say(sentence: str) -> None:
    """Write a sentence into the log of the run."""
    sys.stderr.write(f"halcyon: {printable(sentence)}\n")
    sys.stderr.flush()


class Manager:
    """The operator of one run on hosts.

    Args:
        run: The run.
        places: Its hosts.
        program: The program of each process: `halcyon train` with the document.
        by_user: Whether a user starts the run now, rather than a queue that starts it again.
        clock: The time.
    """

    def __init__(
        self,
        run: TrainingRun,
        places: Places,
        program: Sequence[str],
        *,
        by_user: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._places, self._clock = places, clock
        self._wake = threading.Event()
        self._around = Surroundings(places, program, clock, self._wake.set, {})
        self._store = Store(run.spec.checkpoint, timeout_seconds=_STORE_SECONDS)
        self._settings = settings_for(run.spec)
        self._group: Group | None = None
        self._last: Group | None = None
        """The group whose processes are observed, also after it is gone."""
        self._posted: set[str] = set()
        self._due = clock()
        self._written_at: datetime | None = None
        self._signals: list[int] = []
        self._leaving = False
        found = self._store.read(STATUS_KEY)
        self._generation, self._view = found.generation, run_view(run, document_in(found.data))
        status = self._view.status
        if by_user and status.holds("Stalled"):
            self._view = replace(self._view, restart_request=f"started at {stamp(clock())}")
        waited = "capacity_wait" if places.has_queue else "suspended"
        self._view = replace(self._view, status=resumed(Observed(self._view, self._settings), clock(), waited=waited))

    def manage(self) -> int:
        """Manage the run until it is at rest or this process is asked to end. Returns the exit code."""
        kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = {kind: signal.signal(kind, self._signalled) for kind in kinds}
        try:
            while (code := self._step()) is None:
                left = (self._due - self._clock()).total_seconds()
                self._wake.wait(max(0.0, min(_POLL_SECONDS, left)))
                self._wake.clear()
            return code
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _signalled(self, number: int, frame: object) -> None:
        del frame
        self._signals.append(number)
        self._wake.set()

    def _step(self) -> int | None:
        group, changed = self._group, False
        if group is not None:
            changed = group.tick()
            if group.gone:
                self._group = group = None
        if self._signals:
            self._leave("the job's time ends soon" if signal.SIGUSR1 in self._signals else "the run was asked to end")
        elif changed and not self._places.goes_on():
            self._leave("the job was cancelled, or another one takes its nodes")
        elif group and group.short and self._places.has_queue:
            self._leave("the job has fewer nodes than the run needs")
        if self._leaving and (group is None or not group.processes):
            return self._left()
        now = self._clock()
        return self._reconcile(now) if changed or now >= self._due else None

    def _leave(self, why: str) -> None:
        """Let all processes save and end."""
        if self._leaving:
            return
        say(why)
        self._leaving = True
        if self._group is not None:
            self._group.notice(why)

    def _left(self) -> int:
        placement = self._view.status.placement
        avoided = [one.node for one in placement.avoided] if placement else []
        if self._places.goes_on() and self._places.put_back(avoided):
            say("the job waits in the queue again")
        return ExitCode.PREEMPTED

    def _reconcile(self, now: datetime) -> int | None:
        observed = self._observe(now)
        decision = reconcile(observed, now)
        again = _IDLE_SECONDS if decision.requeue_after is None else decision.requeue_after
        self._due = now + timedelta(seconds=again)
        if decision.status is not None and not self._write(decision.status, now):
            self._due = now + timedelta(seconds=_RETRY_SECONDS)
            return None
        self._carry_out(decision)
        status, group = self._view.status, self._group
        if status.phase in AT_REST and not (group and group.runs):
            ready = status.condition("Ready")
            if ready is not None and not decision.events:
                say(f"{status.phase}: {ready.message}")
            return _exit_code(status)
        if group is None and self._places.has_queue and status.phase == "Restarting" and again > _LONG_SECONDS:
            self._leave(f"the next attempt follows in {again:.0f} s")
        return None

    def _observe(self, now: datetime) -> Observed:
        last, group = self._last, self._group
        pods = tuple(last.pods()) if last else ()
        endings, replaced = seen_endings(pods, ())
        reading = self._report(group) if group else ReportReading()
        return Observed(
            run=self._view,
            settings=self._settings,
            jobsets=(group.jobset,) if group else (),
            guards=group.guards() if group else (),
            pods=pods,
            endings=endings,
            replaced=replaced,
            head=self._head(),
            report=reading.report,
            report_problem=reading.problem,
            fresh_token=secrets.token_urlsafe(),
            progress_written_at=self._written_at,
        )

    def _head(self) -> HeadReading:
        try:
            data = self._store.read(HEAD_KEY).data
            return HeadAbsent() if data is None else HeadFound(decode_head(data))
        except (StoreFailure, DamagedDocument) as error:
            return HeadUnreachable(str(error))

    def _report(self, group: Group) -> ReportReading:
        address = group.address()
        if address is None:
            return ReportReading()
        try:
            with _http.open(f"{address}/status", timeout=_HTTP_SECONDS) as answer:
                body = answer.read(MAX_REPORT_BYTES + 1)
        except (OSError, ValueError) as error:
            return ReportReading(problem=f"no answer ({type(error).__name__})")
        return parse_report(body, self._view.name, group.group)

    def _write(self, status: TrainingRunStatus, now: datetime) -> bool:
        """Write the status. Returns False if the store does not answer.

        Raises:
            BadConfiguration: Another manager has written one.
        """
        document = status_document(status)
        data = json.dumps(written(self._view, document), indent=1).encode()
        try:
            generation = self._store.swap(STATUS_KEY, data, self._generation)
            if generation is None:
                found = self._store.read(STATUS_KEY)
                generation = found.generation if found.data == data else None
        except StoreFailure as failure:
            say(f"the status cannot be written: {failure}; trying again")
            return False
        if generation is None:
            raise BadConfiguration(
                f"another manager writes {self._store.root}/{STATUS_KEY}; end the one that should not run"
            )
        self._generation, self._written_at = generation, now
        self._view = replace(self._view, status=status, raw_status=document)
        return True

    def _carry_out(self, decision: Decision) -> None:
        group = self._group
        for deletion in decision.delete:
            if group is None:
                continue
            if deletion.kind == "JobSet" and deletion.uid == group.jobset.uid:
                group.delete()
            elif deletion.kind == "JobSet":
                group.guarded.discard(deletion.uid)
            elif deletion.kind == "Pod":
                group.move(deletion.uid)
        for plan in decision.create:
            if isinstance(plan, JobSetPlan) and group is None and not self._leaving:
                self._group = self._last = Group(plan, self._around)
            elif isinstance(plan, GuardPlan) and group is not None:
                group.guarded.add(plan.node)
        if decision.delete or decision.create:
            self._due = self._clock()
        for event in decision.events:
            if event.key not in self._posted:
                self._posted.add(event.key)
                say(f"{event.reason}: {event.message}")
        for ask in decision.asks:
            self._ask(ask)

    def _ask(self, ask: SaveAsk) -> None:
        """Ask process 0 for a checkpoint; the next reconcile asks again if that fails."""
        address = self._group and self._group.address()
        if address is None:
            return
        headers = {"Authorization": f"Bearer {ask.token}", "Content-Type": "application/json"}
        body = ask.request.model_dump_json(by_alias=True).encode()
        try:
            request = urllib.request.Request(f"{address}{SAVE_PATH}", body, headers)  # noqa: S310 - always http
            _http.open(request, timeout=_HTTP_SECONDS).close()
        except (OSError, ValueError) as error:
            say(f"process 0 does not take the request for a checkpoint: {error}")


def _exit_code(status: TrainingRunStatus) -> int:
    """The exit code of a run at rest."""
    if status.phase == "Succeeded":
        return ExitCode.DONE
    return ExitCode.PREEMPTED if status.phase == "Suspended" else last_cause(status).exit_code or ExitCode.FAILURE
