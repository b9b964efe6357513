"""Decides when the processes of a run start together, and what follows from an end. Pure: the supervisor beside process
0 passes it what happens, and carries out the orders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from halcyon.host.agent.lineage import Lineage
from halcyon_api.ends import FATAL_CODES, ExitCode


@dataclass(frozen=True)
class Stop:
    """All supervisors end their processes, if these have joined."""


@dataclass(frozen=True)
class Go:
    """All processes wait at the join: they join now."""

    lineage: Lineage


@dataclass(frozen=True)
class Quit:
    """All supervisors end, or that of one process, with this exit code."""

    code: int
    process: int | None = None


Order = Stop | Go | Quit
Orders = list[Order]
End = Mapping[str, Any]


@dataclass
class Rendezvous:
    """The meeting of all supervisors of a run.

    Args:
        processes: Number of processes of the run.
        new_writer: Draws the nonce of a start.
        now: The time, as a timestamp of the status.
        forgives: Whether all start again after the first failure too.
        leaves_node: Whether the pod of a process that fails twice leaves its node.
    """

    processes: int
    new_writer: Callable[[], str]
    now: Callable[[], str]
    forgives: bool = True
    leaves_node: bool = False
    lineage: Lineage | None = None
    """Of the last start; None: there was none."""
    running: bool = False
    """Whether the processes have joined and no end is known."""
    committed: int = -1
    """The newest committed step that process 0 knows."""
    _found: int | None = None
    """The first one that it has named: the newest when it began."""
    _present: set[int] = field(default_factory=set)
    _waiting: set[int] = field(default_factory=set)
    _done: set[int] = field(default_factory=set)
    _ends: list[End] = field(default_factory=list)
    _left: bool = False
    """Whether a pod was told to leave since the last start."""

    @property
    def all_done(self) -> bool:
        """Whether the processes of all supervisors that are here have done their work."""
        return self._present <= self._done

    def joined(self, process: int, known: Lineage | None) -> Orders:
        """A supervisor has connected.

        Args:
            process: Its process.
            known: The lineage that it knows; None: its pod is new.
        """
        found: Orders = []
        if self.running:  # its pod was replaced before its loss was noticed
            found = self.lost(process)
        self._present.add(process)
        if known is not None and (self.lineage is None or known.number > self.lineage.number):
            if self.lineage is None:  # this pod is new, and those of the others are not
                self._ends.append(self._lost_pod(0))
            self.lineage = known
        return found

    def waits(self, process: int) -> Orders:
        """A process waits at the join, and the one before it has ended."""
        self._waiting.add(process)
        return self._start()

    def ended(self, process: int, end: End) -> Orders:
        """A process that had joined has ended, and its supervisor starts the next one; or it ends too, if ``podLost``.

        ``stopped``: its supervisor ended it because of another one.
        """
        self._waiting.discard(process)
        return self._ended({**end, "process": process, "at": self.now()})

    def has_checkpoint(self, step: int) -> None:
        """Process 0 knows a newest checkpoint; -1: there is none."""
        self.committed = step
        self._found = step if self._found is None else self._found

    def done(self, process: int) -> Orders:
        """A process has done all its work."""
        self._done.add(process)
        return self._end_after_others()

    def lost(self, process: int) -> Orders:
        """The connection of a supervisor has closed."""
        self._present.discard(process)
        self._waiting.discard(process)
        if process in self._done:
            return []
        known = any(end["process"] == process and end.get("podLost") for end in self._ends)
        return self._ended(None if known else self._lost_pod(process))

    def _lost_pod(self, process: int) -> End:
        return {"process": process, "podLost": True, "at": self.now()}

    def _ended(self, end: End | None) -> Orders:
        if self.lineage is None:  # the first start: the pod is replaced, and the others still wait for it
            return []
        if end is not None:
            self._ends.append(end)
        was_running, self.running = self.running, False
        return [*([Stop()] if was_running else []), *self._end_after_others()]

    def _end_after_others(self) -> Orders:
        """The processes that have done their work do not come back, so the others cannot start without them."""
        return [Quit(ExitCode.NOT_REJOINED)] if self._done and self._ends else []

    def _start(self) -> Orders:
        if self.running or len(self._waiting) < self.processes:
            return []
        if self.lineage is None:
            self.lineage = Lineage(writers=(self.new_writer(),))
        else:
            steps = [(end.get("report") or {}).get("step", 0) for end in self._ends]
            end = {**min(self._ends, key=rank, default=self._lost_pod(0)), "step": max(steps, default=0)}
            failed, before = is_failure(end), self.lineage.failed_at
            if before is None and not self.forgives:
                before = self.committed if self._found is None else self._found
            if failed and before is not None and self.committed <= before and not self._left:
                self._left = self._stays_broken(process := end["process"])
                self._waiting.discard(process)
                return [Quit(ExitCode.LEAVES_NODE, process) if self._left else Quit(ExitCode.FAILURE)]
            end |= {"podLost": True} if self._left else {}
            taken = self._found is not None
            self.lineage = self.lineage.after(end, self.new_writer(), self.committed if failed else None, taken=taken)
        self._waiting.clear()
        self._ends.clear()
        self._left, self.running = False, True
        return [Go(self.lineage)]

    def _stays_broken(self, process: int) -> bool:
        """Whether a process that has failed alone is the one that failed last, and in the same pod."""
        if not self.leaves_node or self.lineage is None or sum(map(is_failure, self._ends)) > 1:
            return False
        own = (end for end in reversed(self.lineage.ends) if is_failure(end) or end.get("process") == process)
        last = next(own, None)
        return last is not None and last.get("process") == process and is_failure(last)


def is_failure(end: End) -> bool:
    """Whether a process failed. The end of a pod is judged by the operator, and a process that left after a notice, or
    because of another one, did not fail.
    """
    return not end.get("podLost") and end.get("exitCode") != ExitCode.PREEMPTED and not _is_echo(end)


def rank(end: End) -> int:
    """The order in which ends explain the others; of equal ones the first is the cause."""
    if _is_echo(end):
        return 3
    if end.get("exitCode") == ExitCode.PREEMPTED and not end.get("podLost"):
        return 2
    return 1 if end.get("podLost") else 0


def _is_echo(end: End) -> bool:
    report = end.get("report") or {}
    return bool(end.get("stopped")) or report.get("peerLost") is not None or bool(report.get("othersMissing"))


def stays(code: int) -> bool:
    """Whether the trainer starts again in its pod after an exit code; a negative one is that of a signal."""
    return code not in (ExitCode.DONE, ExitCode.NOT_REJOINED, *FATAL_CODES)
