"""The history of a training: begun when its root is taken, fed by its reports."""

from __future__ import annotations

from halcyon.checkpoint import Checkpointer
from halcyon.context import Context
from halcyon.history.segments import ProcessGroupId
from halcyon.history.writer import Account, HistoryWriter
from halcyon.telemetry import RunReporter
from halcyon_api.goodput import CAUSES


def begin_history(context: Context, checkpointer: Checkpointer, reporter: RunReporter, step: int) -> None:
    """Record the run from here on, beside its checkpoints. Only for process 0, which has the root.

    Args:
        context: The run.
        checkpointer: The root that was taken.
        reporter: The reports to record.
        step: Steps done.
    """
    group = ProcessGroupId(
        number=0,  # the writer finds it in the root
        attempt=checkpointer.epoch.attempt,
        restart=checkpointer.epoch.restart,
        writer=checkpointer.writer,
        resumed_step=step,
        began=round(reporter.began, 3),
        run=context.owner.name,
        steps=context.run.spec.trainer.steps,
    )

    def account() -> Account:
        report = reporter.observe().report
        return Account(max(step, report.progress.step), {cause: getattr(report.seconds, cause) for cause in CAUSES})

    reporter.listen(HistoryWriter(context.run.spec.checkpoint, group, account=account, on_warning=reporter.warning))
