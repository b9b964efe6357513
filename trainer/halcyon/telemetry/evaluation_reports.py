"""Reports of evaluations: those of a training, and of the batches of a run that only evaluates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from halcyon.telemetry.evaluating import average_numbers, averaged, numbers, with_source
from halcyon.telemetry.reports import Reports
from halcyon_api.status.progress import Evaluated
from halcyon_api.task_results import CHAT_CORE, CORE

if TYPE_CHECKING:
    from halcyon.telemetry.evaluated_sets import EvaluatedSets
    from halcyon.telemetry.evaluation import Evaluation
    from halcyon_api.checkpoint_documents import EvaluationRecord
    from halcyon_api.task_results import TaskNumbers, TaskResults


class EvaluationReports(Reports):
    """The reports of evaluations."""

    def evaluation(self, step: int, evaluation: Evaluation, *, source: str | None = None, average: Evaluation | None = None) -> None:
        """Report an evaluation of the held-out part after ``step`` steps: of one `source` (task ``evaluate``), or of all together.

        `average` is the evaluation of the average of the parameters, if the run has one.
        """
        with self._lock:
            if source is None:
                self._run.facts.evaluation_loss = evaluation.loss
                self._run.facts.bits_per_byte = evaluation.bits_per_byte
                self._run.facts.average_loss = average.loss if average is not None else None
                self._count(evaluations=1)
            elif (found := self._run.facts.evaluated) is not None:
                self._run.facts.evaluated = with_source(found, source, evaluation)
        self._event("evaluation", step=step, source=source, **numbers(evaluation), **average_numbers(average))

    def evaluated_sets(self, step: int, sets: EvaluatedSets, average: Evaluation | None = None) -> None:
        """Report an evaluation while the run trains: of all sources together, and of each source and tag if there are results of them.

        `average` is the evaluation of the average of the parameters on all sources together, if the run has one.
        """
        for source, evaluation in sets.sources.items():
            self._event("evaluation", step=step, source=source, **numbers(evaluation))
        for tag, found in sets.by_tag.items():
            self._event("evaluation", step=step, tag=tag, **averaged(found))
        if (found := sets.all_sources) is not None and len(sets.sources) > 1:
            self._event("macroEvaluation", step=step, loss=found.macro_loss, bits_per_byte=found.macro_bits_per_byte)
        self.evaluation(step, sets.whole, average=average)

    def task_done(self, step: int, numbers: TaskNumbers) -> None:
        """Report the result of a task on the model after ``step`` steps."""
        self._event(
            "task",
            step=step,
            task=numbers.task,
            accuracy=numbers.accuracy,
            standard_error=numbers.standard_error,
            centred=numbers.centred,
            bits_per_byte=numbers.bits_per_byte,
            examples=numbers.examples,
            seconds=round(numbers.seconds, 6),
        )

    def tasks_done(self, results: TaskResults) -> None:
        """Report that all tasks are done on the model of a step; the event of each was written before."""
        with self._lock:
            self._run.facts.tasks = results.numbers
        for name, value in ((CORE, results.core), (CHAT_CORE, results.chat_core)):
            if value is not None:
                self._event("task", step=results.step, task=name, centred=value)

    def evaluates_on(self) -> None:
        """Report progress of an evaluation, for the health: the limit of the stage begins again."""
        with self._lock:
            self._run.enter("evaluating")

    def best(self, record: EvaluationRecord | None, *, stopped: bool) -> None:
        """Report the best evaluation so far, and whether the run ends because its evaluations did not improve."""
        with self._lock:
            self._run.facts.best, self._run.facts.stopped_early = record, stopped

    def evaluates(self, found: Evaluated, *, batches: int, batch_tokens: int, done: int = 0, tasks: int = 0) -> None:
        """Set the work of a run of task ``evaluate``.

        Args:
            found: The checkpoint, and the sources that are already evaluated.
            batches: Batches of the whole run.
            batch_tokens: Tokens of a batch, over all devices.
            done: Batches, and tasks, that are already evaluated.
            tasks: Tasks of the whole run; each counts as one more batch, without tokens.
        """
        with self._lock:
            self._run.plan = replace(self._run.plan, steps=batches + tasks, tokens_before=lambda batch: min(batch, batches) * batch_tokens)
            self._run.facts.evaluated, self._run.facts.resumed_step, self._run.facts.batches = found, done, done

    def evaluated_batch(self) -> None:
        """Report that the sums of one batch were fetched, in a run of task ``evaluate``."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            run = self._run
            first = run.batch_evaluated(now, wall)
            batch, batches = run.facts.batches, run.plan.steps
            due = run.batch_lines.due(now, last=batch == batches)
            speed, eta = run.tokens_per_second, run.eta_seconds(batch)
            startup = run.startup.parts
        if first:
            self._compiled(batch, startup)
        if due:
            self._event("evaluating", batch=batch, batches=batches, tokens_per_second=speed, eta_seconds=eta)
