"""The decision about a run whose reconcile failed. It uses no part that may have failed. Pure."""

from dataclasses import replace
from datetime import datetime

from halcyon_operator.decide.next.carry_out import all_jobsets
from halcyon_operator.decide.record.status_writes import is_routine
from halcyon_operator.decide.tell.conditions import stalled, with_description
from halcyon_operator.model.decision import Decision, Deletion, Event
from halcyon_operator.model.untrusted import text
from halcyon_operator.model.views import Observed


def after_failure(observed: Observed, error: Exception, now: datetime) -> Decision:
    """Tell the user why the operator cannot manage the run, and carry out `suspend: true`.

    The owner references carry out a deletion. The message is written once, because it may differ at each failure.
    """
    run = observed.run
    if run.deleting:
        return Decision()
    problem = f"The operator cannot manage this run: {type(error).__name__}: {text(str(error), 500)}"
    message = f"{problem}; it tries again, and until then only suspend: true and a deletion have effect"
    description = replace(stalled("ReconcileFailed", message), phase=run.status.phase)
    status = with_description(run.status, description, run.generation, now)
    return Decision(
        None if is_routine(observed, status) else status,
        jobsets_to_suspend(observed),
        events=(Event("Warning", "ReconcileFailed", problem, f"error/{type(error).__name__}/{run.generation}"),),
    )


def jobsets_to_suspend(observed: Observed) -> tuple[Deletion, ...]:
    """The JobSets of a run with `suspend: true`, also if its document is not valid: its processes save as they end."""
    return all_jobsets(observed) if observed.run.raw_spec.get("suspend") is True else ()
