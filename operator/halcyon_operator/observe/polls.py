"""Polls trainers in the background, so that pods that do not answer delay nothing.

A reconcile waits a moment for a trainer that answered the last request, because such a trainer answers in milliseconds.
Any other trainer is polled in the background: the reconcile continues with the last report, and the run is reconciled
again when the answer arrives. A trainer that never answers is polled less and less often. A trainer that rejects the
connection, for example while it imports its libraries, is polled every second at first. At most `MAX_AT_ONCE` requests
run at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from halcyon_operator.model.views import PodView, RunKey
from halcyon_operator.observe.trainers import ReportReading

PATIENCE_SECONDS = 0.25
"""How long a reconcile waits for a trainer that answered the last time."""
REFUSED_PAUSE_SECONDS = 1.0
LONGEST_REFUSED_PAUSE_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
MAX_AT_ONCE = 32
MAX_REMEMBERED = 8192


class ReadsTrainers(Protocol):
    """Reads one trainer."""

    async def read(self, pod: PodView, port: int, run: str) -> ReportReading:
        """The report of a pod."""
        ...


@dataclass
class _Trainer:
    """The last report of one pod's trainer."""

    reading: ReportReading = field(default_factory=lambda: ReportReading(problem="it has not answered yet"))
    failures: int = 0
    due: float = 0.0
    poll: asyncio.Task[None] | None = None

    @property
    def answers(self) -> bool:
        return self.reading.report is not None


class Polls:
    """Polls trainers, in the background if the answer may take long.

    Args:
        trainers: Reads one trainer.
        changed: Called with a run's key when a new report arrives after the reconcile has ended.
        clock: Seconds, monotonic.
    """

    def __init__(self, trainers: ReadsTrainers, changed: Callable[[RunKey], None], clock: Callable[[], float]) -> None:
        self._trainers = trainers
        self._changed = changed
        self._clock = clock
        self._known: OrderedDict[tuple[RunKey, str], _Trainer] = OrderedDict()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def read(self, key: RunKey, pod: PodView, port: int) -> ReportReading:
        """The last report of a run's pod, or the reason why there is none."""
        trainer = self._known.setdefault((key, pod.uid), _Trainer())
        self._known.move_to_end((key, pod.uid))
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        if trainer.poll is None and self._clock() >= trainer.due:
            trainer.poll = asyncio.create_task(self._poll(key, pod, port, trainer))
        if trainer.poll is not None and trainer.answers:
            await asyncio.wait({trainer.poll}, timeout=PATIENCE_SECONDS)
        return trainer.reading

    async def close(self) -> None:
        """Cancel all polls."""
        running = [trainer.poll for trainer in self._known.values() if trainer.poll is not None]
        for poll in running:
            poll.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _poll(self, key: RunKey, pod: PodView, port: int, trainer: _Trainer) -> None:
        waited_for, before = trainer.answers, trainer.reading
        try:
            async with self._slots:
                began = self._clock()
                reading = await self._trainers.read(pod, port, key[1])
        finally:
            trainer.poll = None
        now = self._clock()
        slow = now - began > PATIENCE_SECONDS
        trainer.reading = reading
        if reading.report is not None:
            trainer.failures, trainer.due = 0, 0.0
        elif not slow:
            trainer.due = now + min(LONGEST_REFUSED_PAUSE_SECONDS, REFUSED_PAUSE_SECONDS * (1 + trainer.failures / 10))
            trainer.failures += 1
        else:
            trainer.due = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(trainer.failures, 16))
            trainer.failures += 1
        if (slow or not waited_for) and reading != before:
            self._changed(key)
