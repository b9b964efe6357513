"""The runs that a run waits for: that of `spec.after`, or that of `spec.from` while it has no checkpoint root. Pure.

`spec.after` is checked only before the first attempt: a run that has begun continues in any case. A cycle of runs that
wait for one another is found by following `spec.after` from run to run; only runs that have not begun can be part of a
cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halcyon_operator.model.reasons import StallReason
from halcyon_operator.model.views import Prerequisite


@dataclass(frozen=True)
class UnmetPrerequisite:
    """Why a run cannot begin yet."""

    message: str
    reason: StallReason | Literal[""] = ""
    """Reason of `Stalled` if a user must act; empty: the run only waits."""


def unmet_prerequisite(run: str, namespace: str, chain: tuple[Prerequisite, ...]) -> UnmetPrerequisite | None:
    """Why a run must wait; None if it does not have to.

    Args:
        run: Name of the run.
        namespace: Namespace of the run.
        chain: The run that it waits for, the run that that run waits for, and so on; empty: none.
    """
    if not chain or (first := chain[0]).phase == "Succeeded":
        return None
    if chain[-1].after in {run, *(other.name for other in chain)}:
        links = ", ".join(f"{other.name} for {other.after if other.after != run else 'this run'}" for other in chain)
        sentence = f"this run waits for {first.name}, {links}: none of them can begin; leave `after` out of one of them"
        return UnmetPrerequisite(f"spec.after.run: {sentence}", "AwaitedRunCycle")
    if first.phase is None:
        fix = "create it, correct the name, or leave `after` out if that run has succeeded and was deleted"
        return UnmetPrerequisite(
            f"spec.after.run: waits for run {first.name}, and there is none of that name in namespace {namespace}; "
            f"{fix}"
        )
    reason = f": {first.message}" if first.message else ""
    if first.phase == "Failed":
        return UnmetPrerequisite(
            f"spec.after.run: run {first.name}, for which this one waits, has failed{reason}; fix that run",
            "AwaitedRunFailed",
        )
    return UnmetPrerequisite(f"waits for run {first.name} to succeed, which is {first.phase}{reason}")


def unmet_origin(origin: Prerequisite) -> UnmetPrerequisite:
    """Why a run must wait for the run of its `spec.from`, which has no checkpoint root before its first attempt.

    The other run's message is left out: that run may wait for this one, and then each message would contain the other
    one without end.
    """
    if origin.phase == "Failed":
        sentence = f"run {origin.name} has failed before it began, so its checkpoint root is not known; fix that run"
        return UnmetPrerequisite(f"spec.from.run: {sentence}", "OriginUnknown")
    return UnmetPrerequisite(
        f"spec.from.run: waits for run {origin.name} to begin, which is {origin.phase}; until then, it has no "
        "checkpoint root"
    )
