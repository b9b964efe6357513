"""What a process knows of its run, and what follows from it. Threads that share it hold a lock."""

from __future__ import annotations

from dataclasses import replace

from halcyon.telemetry.clock import Clock, microseconds
from halcyon.telemetry.durations import Durations
from halcyon.telemetry.evaluating import LogInterval
from halcyon.telemetry.health import Health, HealthInputs, HealthLimits, judge
from halcyon.telemetry.observation import RunPlan, StepReport
from halcyon.telemetry.pace import Pace
from halcyon.telemetry.snapshot import Facts, Snapshot
from halcyon.telemetry.startup import Startup
from halcyon.telemetry.time_account import TimeAccount
from halcyon.telemetry.tokenizing import Tokenizing
from halcyon_api.status.progress import Stage


class RunState:
    """What a process knows of its run.

    Args:
        plan: The plan of the run, for its counts.
        clock: Sources of time.
        limits: Limits of a healthy process.
        began: Start of the process, in seconds of the monotonic clock.
        work: The stage of the run's productive work.
    """

    def __init__(self, plan: RunPlan, clock: Clock, limits: HealthLimits, began: float, work: Stage) -> None:
        self.plan = plan
        self.facts = Facts(stage_began=began)
        self.pace = Pace()
        self.durations = Durations(plan.size_of)
        self.tokenizing = Tokenizing()
        self.batch_lines = LogInterval()
        self.startup = Startup(began)
        self.account = TimeAccount(began, work)
        self._work: Stage = work
        self._clock = clock
        self._limits = limits

    def enter(self, stage: Stage) -> None:
        """Begin a stage."""
        facts, now = self.facts, self._clock.monotonic()
        self.startup.stage_ends(facts.stage, now)
        self.account.stage_ends(facts.stage, now)
        facts.stage, facts.stage_began, facts.paused_seconds = stage, now, 0.0
        if stage == self._work == "tokenizing" and facts.first_step_time is None:
            self._work_begins(self._clock.monotonic(), self._clock.wall())  # this task compiles nothing and has no first step

    def step_ended(self, report: StepReport, now: float, wall: float) -> bool:
        """Record the end of a step at this time of both clocks. True: it is the first one of this process."""
        facts = self.facts
        first = facts.last_step is None
        before = facts.last_step.step if facts.last_step else (facts.resumed_step or 0)
        steps = report.step - before
        if first:
            self._work_begins(now, wall)
        self.account.step_ends(facts.stage, report.step, now)
        if facts.stage == "compiling":
            facts.stage, facts.stage_began = "training", now
        facts.last_step, facts.last_step_time = report, wall
        since = max(self.pace.last_ended or 0.0, facts.stage_began)
        self.durations.step_ended(report.step, now - since - facts.paused_seconds, steps)
        facts.paused_seconds = 0.0
        self.pace.step_ended(now, report.step, report.data_wait_seconds)
        facts.tallies = replace(
            facts.tallies,
            steps=facts.tallies.steps + steps,
            tokens=facts.tallies.tokens + self.plan.tokens_before(report.step) - self.plan.tokens_before(report.step - steps),
            data_wait_seconds=facts.tallies.data_wait_seconds + report.data_wait_seconds,
        )
        return first

    def went_back(self, step: int) -> None:
        """Record that the run went back to an earlier step. The steps since then are lost; the speed is measured anew from there."""
        facts = self.facts
        self.account.went_back(facts.stage, step, self._clock.monotonic())
        facts.last_step = None if facts.last_step is None else replace(facts.last_step, step=step)
        self.pace.begin_again()

    def batch_evaluated(self, now: float, wall: float) -> bool:
        """Record the end of a batch of a run that evaluates, as `step_ended` does."""
        facts = self.facts
        first = facts.first_step_time is None
        if first:
            self._work_begins(now, wall)
        if facts.stage == "compiling":
            facts.stage = "evaluating"
        facts.batches += 1
        facts.last_step_time = wall
        facts.stage_began, facts.paused_seconds = now, 0.0
        self.pace.step_ended(now, facts.batches)
        tokens = self.plan.tokens_before(facts.batches) - self.plan.tokens_before(facts.batches - 1)
        facts.tallies = replace(facts.tallies, steps=facts.tallies.steps + 1, tokens=facts.tallies.tokens + tokens)
        return first

    def _work_begins(self, now: float, wall: float) -> None:
        """From now on, the time in the stage of the run's work is productive."""
        self.facts.first_step_time = wall
        self.startup.first_step_ends(self.facts.stage, now)
        self.account.first_step_ends(self.facts.stage, now)

    @property
    def step(self) -> int:
        """Steps done, as far as reported."""
        return self.facts.last_step.step if self.facts.last_step else (self.facts.resumed_step or 0)

    @property
    def tokens_per_second(self) -> float | None:
        """Speed over the last steps; None before the second step."""
        speed = self.pace.steps_per_second
        return None if speed is None else microseconds(speed * self._tokens_per_step())

    def _tokens_per_step(self) -> int:
        """Tokens of the last step; before it, of the first one."""
        step = max(1, self.facts.last_step.step if self.facts.last_step else 1)
        return self.plan.tokens_before(step) - self.plan.tokens_before(step - 1)

    def eta_seconds(self, step: int) -> float | None:
        """Time from the end of a step to the end of the run; None before the second step."""
        speed = self.pace.steps_per_second
        return microseconds(max(0, self.plan.steps - step) / speed) if speed else None

    @property
    def health(self) -> Health:
        """Whether the process is healthy."""
        facts, began = self.facts, self.facts.stage_began
        if facts.stage == "tokenizing":
            began = max(began, facts.tokenized_at)
        done = facts.last_step.step if facts.last_step else 0
        vitals = HealthInputs(
            facts.stage,
            began,
            self.pace.last_ended,
            self.durations.of_steps_in_progress(done),
            paused_seconds=facts.paused_seconds,
            waits_until=facts.waits_until,
        )
        return judge(vitals, self._clock.monotonic(), self._limits)

    def snapshot(self) -> Snapshot:
        """A copy of everything that readers see."""
        facts, pace = replace(self.facts), self.pace
        step = facts.last_step.step if facts.last_step else (facts.batches or facts.resumed_step or 0)
        return Snapshot(
            facts=facts,
            plan=self.plan,
            step=step,
            tokens_per_second=self.tokens_per_second,
            eta_seconds=self.eta_seconds(step),
            tallies=replace(facts.tallies, step_buckets=pace.buckets, step_seconds=pace.sum_seconds, data_wait_ratio=pace.wait_ratio),
            sources=self.tokenizing.sources,
            startup=self.startup.seconds,
            health=self.health,
            seconds=self.account.until(facts.stage, self._clock.monotonic()),
            time=self._clock.timestamp(),
        )
