"""The best checkpoint and early stopping: a pure function of the evaluations, whose state is in each checkpoint.

The state of a checkpoint has the step of the last evaluation. A process that resumes at a step whose evaluation is
missing, because a notice or a crash came first, evaluates that step before it trains. So a resumed run chooses and
stops as a run without interruption.
"""

import math

from halcyon_api.checkpoint_documents import EvaluationRecord
from halcyon_api.counting import counted
from halcyon_api.spec.evaluation import BestSpec
from halcyon_api.status.evaluation import EvaluatedSets


class BestWatch:
    """Compares the evaluations of a run, in order.

    Args:
        best: ``trainer.evaluation.best`` of the run; None: nothing is compared.
        record: The state of the checkpoint that the run resumed from. Ignored if it compared another number.
    """

    def __init__(self, best: BestSpec | None, record: EvaluationRecord | None = None) -> None:
        self._best = best
        key = "" if best is None else best.key
        self._record = record if record is not None and record.metric == key else EvaluationRecord(metric=key)

    @property
    def active(self) -> bool:
        """Whether evaluations are compared."""
        return self._best is not None

    @property
    def record(self) -> EvaluationRecord | None:
        """The state for the next checkpoint; None if nothing is compared."""
        return self._record if self.active else None

    def is_missing(self, step: int) -> bool:
        """Whether the evaluation after `step` steps was not compared yet."""
        return self.active and self._record.evaluated_step < step

    def evaluated(self, step: int, sets: EvaluatedSets) -> bool:
        """Compare an evaluation. True: it is the best so far. A number that is not finite is no improvement."""
        if self._best is None:
            return False
        value, record = sets.value(self._best), self._record
        sign = -1 if self._best.metric == "accuracy" else 1
        least = math.inf if record.best_value is None else sign * record.best_value - self._best.min_improvement
        improved = math.isfinite(value) and sign * value < least
        changes = {"best_step": step, "best_value": value, "without_improvement": 0}
        if not improved:
            changes = {"without_improvement": record.without_improvement + 1}
        self._record = record.but(evaluated_step=step, **changes)
        return improved

    @property
    def stop(self) -> str | None:
        """Why the run stops early; None: it trains on."""
        best, record = self._best, self._record
        if best is None or best.patience is None or record.without_improvement < best.patience:
            return None
        found = (
            "no finite value" if record.best_value is None else f"{record.best_value:z.6g} at step {record.best_step}"
        )
        evaluations = counted(record.without_improvement, "evaluation")
        return f"the {best.key} has not improved in {evaluations}; the best is {found}"
