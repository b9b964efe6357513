"""A clock that tests advance, and a log that keeps its events."""

from __future__ import annotations

import io
import json
from typing import Any

from halcyon.telemetry import Clock, JsonLog, RunIdentity, RunPlan, RunReporter, StepReport
from halcyon_api.checkpoint_documents import CommittedStep, Epoch
from halcyon_api.status.evaluation import EvaluatedSets, Evaluation
from halcyon_api.status.progress import Stage
from halcyon_api.status.sources import Built

IDENTITY = RunIdentity("demo", attempt=3, restart=1, process_index=0)
FOUND = Evaluation(nats=1500.0, weight=1000.0, size_bytes=960, sequences=8, seconds=0.5)
"""1.5 nats per token."""
NOON = 1_772_366_400.0
"""2026-03-01T12:00:00Z."""


class FakeTime:
    """Both clocks of telemetry, which only the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, wall=lambda: NOON + self.now - 1000.0)


class Scene:
    """A reporter and its log, at noon; its process started two seconds before."""

    def __init__(
        self, *, process_index: int = 0, work: Stage = "training", flops_per_token: float | None = None, **plan: Any
    ) -> None:
        self.time = FakeTime()
        self.stream = io.StringIO()
        identity = RunIdentity("demo", attempt=3, restart=1, process_index=process_index)
        self.reporter = RunReporter(
            identity,
            RunPlan(**{"steps": 100, "tokens_before": lambda step: 4096 * step, **plan}),
            JsonLog(self.stream, identity, self.time.clock),
            clock=self.time.clock,
            age_seconds=2.0,
            work=work,
        )
        self.reporter.knows(flops_per_token=flops_per_token)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def start(self, *, resumed_step: int = 0) -> None:
        """Advance to the first step: 1 s joining, 2 s restoring, 3 s compiling (imports not counted)."""
        reporter, time = self.reporter, self.time
        reporter.event("start", version="0.1.0")
        reporter.stage("joining")
        time.pass_(1)
        reporter.event("joined", processes=2, devices=2, seconds=reporter.seconds_in_stage())
        reporter.stage("restoring")
        time.pass_(2)
        path = "steps/x/" if resumed_step else None
        reporter.event("restored", step=resumed_step, path=path, seconds=reporter.seconds_in_stage())
        reporter.stage("compiling")
        time.pass_(3)

    def steps(self, first: int, last: int, *, seconds: float = 0.5) -> None:
        """Report the steps ``first`` to ``last``, one every `seconds` seconds; the first step of a process ends at
        once.
        """
        for step in range(first, last + 1):
            if self.reporter.observe().last_step is not None:
                self.time.pass_(seconds)
            self.reporter.step_done(step_report(step))

    def evaluate(
        self, step: int, found: Evaluation, *, source: str | None = None, average: Evaluation | None = None
    ) -> None:
        """Report an evaluation of one source, or of all together."""
        (name, report, fields) = list(EvaluatedSets(found).events(average))[-1]
        self.reporter.event(name, report, step=step, source=source, **fields)


def built(rows: int, *, finished: bool = False, source: str = "web") -> Built:
    """Progress of the token cache of a source."""
    return Built(source, rows, rows - 1, 1000 * rows, 4000 * rows, int(finished), finished)


def step_report(step: int, loss: float = 2.5) -> StepReport:
    return StepReport(
        step=step,
        loss=loss,
        gradient_norm=1.25,
        learning_rate=0.001,
        tokens=4000.0,
        data_wait_seconds=0.125,
        metrics={},
    )


def committed(step: int, *, attempt: int = 3) -> CommittedStep:
    return CommittedStep(
        step=step,
        epoch=Epoch(attempt=attempt, restart=1),
        path=f"steps/{step:012d}.000003.abcd/",
        manifest_sha256="a" * 64,
        size_bytes=123_456,
        time="2026-03-01T12:00:07.000Z",
    )
