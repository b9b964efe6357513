"""The processes of one attempt: what a JobSet with its pods is in a cluster."""

import secrets
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from typing import Literal

from halcyon_api import names
from halcyon_api.ends import FATAL_CODES
from halcyon_cli.hosts.process import HostProcess, Surroundings
from halcyon_cli.hosts.rules import answer, is_free, ranked
from halcyon_cli.hosts.views import Seen, ending_of, pod_of
from halcyon_operator.decide.record.follow import JOBSET_REFUSED
from halcyon_operator.model.decision import JobSetPlan
from halcyon_operator.model.views import JobSetView, PodView, ProbeView, ProcessGroup

_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Before a process is started again alone, twice as long each time."""
_numbers = count()
_starts = count()


class Group:
    """The processes of one attempt, through all restarts of it.

    Args:
        plan: The decision of the operator.
        around: The surroundings.
    """

    def __init__(self, plan: JobSetPlan, around: Surroundings) -> None:
        self.plan, self._around = plan, around
        self.processes: list[HostProcess] = []
        """All that were started, the oldest first."""
        self.short = False
        """Whether a process has no host."""
        self.gone = False
        self.guarded: set[str] = set()
        """Hosts on which no process of this attempt starts any more: those with a guard in a cluster."""
        self._size = plan.spec.accelerator.resolve().processes
        self._leaves_host = 1 < self._size < len(around.places.hosts())
        # Each restart takes the budget of two failures in place and of one on another host, as in a cluster
        # (`halcyon_operator.objects.jobset`).
        self._most = plan.remaining_restarts // (2 + self._leaves_host)
        self.jobset = JobSetView(
            name=names.jobset_name(plan.run.name, plan.attempt),
            uid=secrets.token_hex(8),
            attempt=plan.attempt,
            owner_uid=plan.run.uid,
            deleting=False,
            restarts=0,
            restarts_counted=0,
            outcome="running",
            failure_reason="",
            failure_message="",
            finished_at=None,
            created_at=around.clock(),
            replicas=plan.spec.accelerator.slices,
            suspended=False,
            queue="",
            in_place=self._size > 1,
            guarded=self._leaves_host,
        )
        """The group as a JobSet."""
        self._then: Literal["go on", "restart", "fail", "delete"] = "go on"
        self._hosts: list[str] = []
        self._due: dict[int, datetime] = {}
        self._ends: Counter[int] = Counter()
        self._tries: Counter[int] = Counter()
        self._start_all()

    @property
    def group(self) -> ProcessGroup:
        """The present process group."""
        return ProcessGroup(self.plan.attempt, self.jobset.restarts)

    @property
    def runs(self) -> bool:
        """Whether a process runs."""
        return any(one.runs for one in self.processes)

    def address(self) -> str | None:
        """Where process 0 answers over HTTP; None: nowhere yet."""
        first = next((one for one in self._present() if one.seen.process == 0 and one.runs), None)
        if first is None or first.port is None:
            return None
        return f"http://{self._coordinator.rpartition(':')[0]}:{first.port}"

    def guards(self) -> tuple[ProbeView, ...]:
        """The guarded hosts as guards."""
        run, now = self.plan.run, self._around.clock()
        guards = {host: replace(self.jobset, name=names.guard_name(run.name, host), uid=host) for host in self.guarded}
        seen = {host: Seen(0, 0, host, self.group, now, now) for host in guards}
        return tuple(ProbeView(guard, (pod_of(seen[host], run, host, ""),)) for host, guard in guards.items())

    def pods(self) -> list[PodView]:
        """The processes as pods, also those that have no host."""
        found = [one.seen for one in self.processes]
        if self.short and self._then == "go on":
            placed = {one.process for one in found if one.group == self.group}
            missing = [index for index in range(self._size) if index not in placed or index in self._due]
            found += [Seen(-1 - index, index, "", self.group, self._around.clock()) for index in missing]
        return [pod_of(one, self.plan.run, self.jobset.uid, self.plan.save_token) for one in found]

    def move(self, pod: str) -> None:
        """End the process with this uid, so that another host takes it over."""
        for one in self._present():
            if one.runs and pod == f"{self.jobset.uid}.{one.seen.number}":
                one.end()

    def delete(self) -> None:
        """End all processes, and then be gone."""
        self.jobset = replace(self.jobset, deleting=True)
        self._end("delete")

    def notice(self, why: str) -> None:
        """End all processes because their hosts end or are taken away."""
        self._end("fail", notice=why)

    def tick(self) -> bool:
        """Look at the processes, and start and end some. Returns whether anything has changed."""
        changed, present = False, self._present()
        for one in self.processes:
            if one.look():
                changed = True
                if one in present:
                    self._ended(one)
            one.hurry(self.plan.spec.recovery.grace_period_seconds)
        if self._then != "go on":
            return self._after_all() or changed
        now = self._around.clock()
        for index in [index for index, at in self._due.items() if now >= at]:
            changed = self._start_again(index) or changed
        done = [one for one in self._present() if one.seen.code == 0 and not one.runs]
        if len(done) == self._size and self.jobset.outcome == "running":
            self.jobset, changed = replace(self.jobset, outcome="completed", finished_at=now), True
        return changed

    def _present(self) -> list[HostProcess]:
        newest = {one.seen.process: one for one in self.processes if one.seen.group == self.group}
        return list(newest.values())

    def _ranked(self) -> list[str]:
        hosts, plan = self._around.places.hosts(), self.plan
        return ranked(hosts, self.guarded.union(plan.avoided), plan.unpreferred, self._around.lost)

    def _start_all(self) -> None:
        self._hosts = self._ranked()[: self._size]
        self._due, self._ends = {}, Counter()
        self._coordinator = self._around.places.coordinator(self._hosts[0], next(_starts)) if self._hosts else ""
        self.short = len(self._hosts) < self._size
        for index in range(self._size if not self.short else 0):
            self._start(index)

    def _start_again(self, index: int) -> bool:
        others = {host for at, host in enumerate(self._hosts) if at != index}
        free = [host for host in self._ranked() if host not in others]
        self.short = not free
        if self.short:
            return False
        if index == 0 and free[0] != self._hosts[0]:
            self._end("restart")  # all processes know its host by name
            return True
        del self._due[index]
        self._hosts[index] = free[0]
        self._start(index)
        return True

    def _start(self, index: int) -> None:
        around, host, plan = self._around, self._hosts[index], self.plan
        variables = (
            f"HALCYON_ATTEMPT={plan.attempt}",
            f"HALCYON_RESTART={self.jobset.restarts}",
            f"HALCYON_RESUME_STEP={plan.resume_step}",
            f"HALCYON_RESTARTS_LEFT={plan.remaining_restarts}",
            f"HALCYON_LEAVES_NODE={int(self._leaves_host)}",
        )
        place = ("--coordinator", self._coordinator, "--processes", str(self._size), "--process", str(index))
        command = around.places.command(host, ("env", *variables, *around.program, *place))
        seen = Seen(next(_numbers), index, host, self.group, around.clock())
        self.processes.append(HostProcess(seen, command, plan.save_token, around))

    def _ended(self, one: HostProcess) -> None:
        seen = one.seen
        ending = ending_of(seen, self.plan.run, self.jobset.uid)
        if seen.lost:
            self._around.lost[seen.host] = seen.number + 1
        if self._then != "go on" or ending is None or (seen.code == 0 and not seen.lost):
            return
        index = seen.process
        match answer(ending, alone=self._size > 1, before=self._ends[index]):
            case "replace":
                if not is_free(ending):
                    self._ends[index] += 1
                pause = min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2 ** min(self._tries[index], 6))
                self._tries[index] += 1
                self._due[index] = self._around.clock() + timedelta(seconds=pause)
            case "restart":
                self._end("restart")
            case "restartCounted" if self.jobset.restarts_counted < self._most:
                self.jobset = replace(self.jobset, restarts_counted=self.jobset.restarts_counted + 1)
                self._end("restart")
            case _:
                refused = ending.exit_code in FATAL_CODES
                self.jobset = replace(
                    self.jobset,
                    failure_reason=JOBSET_REFUSED if refused else "ReachedMaxRestarts",
                    failure_message=f"the process on {seen.host} ended with exit code {ending.exit_code}",
                )
                self._end("fail")

    def _end(self, then: Literal["restart", "fail", "delete"], notice: str = "") -> None:
        self._then = then
        for one in self.processes:
            one.end(notice)

    def _after_all(self) -> bool:
        """Do what waits for the end of all processes."""
        if self.runs or self.gone:
            return False
        match self._then:
            case "restart":
                self.jobset = replace(self.jobset, restarts=self.jobset.restarts + 1)
                self._then = "go on"
                self._start_all()
            case "fail" if self.jobset.outcome == "running":
                self.jobset = replace(self.jobset, outcome="failed", finished_at=self._around.clock())
            case "delete":
                self.gone = True
            case _:
                return False
        return True
