"""When ``trainer.steps`` may change: if every finished step would have been the same with the new number.

Two parts of a step depend on the number of steps: its learning rate, if the schedule ends with the run, and its batch,
if a longer run is simulated (`simulateTokens`). So the number may change with a constant rate, with a cosine with
`decaySteps`, and before the decay of `wsd`. It may not change with `phases` or `otherSchedules`, whose lengths are
shares of the run.
"""

from halcyon_api.base import CelRule, cel
from halcyon_api.edits.branch import BRANCH
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.schedule import ConstantScheduleSpec, CosineScheduleSpec, WsdScheduleSpec


def settled_steps(optimizer: OptimizerSpec, steps: int) -> int | None:
    """Number of first steps whose learning rate, weight decay and momentum do not depend on the number of steps; None:
    all steps.

    Args:
        optimizer: ``spec.optimizer`` of the run.
        steps: ``spec.trainer.steps``.
    """
    if optimizer.other_schedules is not None:
        return 0
    match optimizer.schedule.value:
        case ConstantScheduleSpec() | CosineScheduleSpec(decay_steps=int()):
            return None
        case CosineScheduleSpec(warmup_steps=warmup):
            return min(warmup, steps)
        case WsdScheduleSpec(decay_steps=decay):
            return max(0, steps - decay)
        case _:
            return 0


def steps_refusal(optimizer: OptimizerSpec, *, rehearsal: bool, old: int, new: int, done: int) -> str | None:
    """One sentence with the reason and the fix if the number of steps must not change like this; None if it may.

    Args:
        optimizer: ``spec.optimizer`` of the run, which does not change.
        rehearsal: Whether ``data.mixture.simulateTokens`` is set.
        old: ``trainer.steps`` before the edit.
        new: ``trainer.steps`` after the edit.
        done: Finished steps.
    """
    if old == new:
        return None
    fix = f"set it back to {old}, or {BRANCH}"
    if new < done:
        return f"spec.trainer.steps: {done} steps are done, so {new} are too few; give at least {done}"
    if rehearsal:
        return (
            "spec.trainer.steps: must not change with data.mixture.simulateTokens, because the data depends on it; "
            f"{fix}"
        )
    settled = [steps for steps in (settled_steps(optimizer, old), settled_steps(optimizer, new)) if steps is not None]
    if not settled or done <= min(settled):
        return None
    kind = "otherSchedules" if optimizer.other_schedules is not None else optimizer.schedule.kind
    whole = f"{kind} decays over all steps" if kind == "cosine" else f"{kind} depends on the number of steps"
    why = f"the decay of {kind} began after step {min(settled)}" if min(settled) else whole
    return (
        f"spec.trainer.steps: the {done} steps that are done would have had other learning rates with {new} steps than "
        f"with {old}, because {why}; {fix}"
    )


def steps_rule() -> CelRule:
    """The same rule for the API server, which knows the finished steps from the last write of the status."""
    new, old, done = "self.spec", "oldSelf.spec", "self.status.progress.step"
    none_done = "self.?status.?progress.?step.orValue(0) == 0"
    back = f"self.status.progress.?steps.orValue(0) == {new}.trainer.steps"
    least = f"({new}.trainer.steps < {old}.trainer.steps ? {new}.trainer.steps : {old}.trainer.steps)"

    schedule = f"{new}.optimizer.schedule"
    cosine = f"has({schedule}.cosine.decaySteps) || {done} <= {schedule}.cosine.warmupSteps"
    settled = (
        f"has({schedule}.constant) || (has({schedule}.cosine) && ({cosine})) || "
        f"(has({schedule}.wsd) && {done} <= {least} - {schedule}.wsd.decaySteps)"
    )
    return cel(
        f"{new}.trainer.steps == {old}.trainer.steps || {none_done} || {back} || ({new}.trainer.steps >= {done} && "
        f"!has({new}.data.mixture.simulateTokens) && !has({new}.optimizer.otherSchedules) && ({settled}))",
        "trainer.steps may change only while the steps that are done would have been the same: not below them, not "
        "with data.mixture.simulateTokens or optimizer.otherSchedules, and with schedule constant, cosine with "
        "decaySteps, or wsd before its decay; else begin a new run from this one's checkpoint (spec.from)",
        field_path=".spec.trainer.steps",
        reason="FieldValueForbidden",
    )
