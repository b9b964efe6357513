"""The speed of a run beside its plan. Pure."""

from halcyon_api.status.run_status import TrainingRunStatus

SLOW = 0.8
"""Share of the planned speed below which a run is told to be slower than planned."""
_SETTLED_STEPS = 50
"""Steps after which the measured speed is compared with the plan."""


def speed_ratio(status: TrainingRunStatus) -> float | None:
    """The measured speed as a share of the planned one; None: one of them is not known yet."""
    plan, progress = status.plan, status.progress
    if plan is None or progress is None or not plan.tokens_per_second or progress.step < _SETTLED_STEPS:
        return None
    return None if progress.tokens_per_second is None else progress.tokens_per_second / plan.tokens_per_second
