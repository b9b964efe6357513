"""What a run waits for that comes after another one (`spec.after`), or begins from one that has not begun itself (`spec.from`). Pure.

Of `spec.after` it is asked before the first attempt only: a run that has begun goes on whatever becomes of the other. Runs that wait for
one another in a circle are found by following `spec.after` from one to the next; only runs that have not begun themselves can be part of
one.
"""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_operator.model.views import Prerequisite


@dataclass(frozen=True)
class Unmet:
    """Why a run cannot begin yet."""

    message: str
    reason: str = ""
    """Reason of `Stalled` where somebody has to do something; empty where waiting is enough."""


def unmet_prerequisite(run: str, namespace: str, chain: tuple[Prerequisite, ...]) -> Unmet | None:
    """Whether a run must wait.

    Args:
        run: Its name.
        namespace: Its namespace.
        chain: The run that it waits for, the one that this waits for, and so on; empty: it waits for none.
    """
    if not chain or (first := chain[0]).phase == "Succeeded":
        return None
    if chain[-1].after in {run, *(other.name for other in chain)}:
        links = ", ".join(f"{other.name} for {other.after if other.after != run else 'this run'}" for other in chain)
        sentence = f"this run waits for {first.name}, {links}: none of them can begin; leave `after` out of one of them"
        return Unmet(f"spec.after.run: {sentence}", "AwaitedRunCycle")
    if first.phase is None:
        mend = "make it, correct the name, or leave `after` out if it is done and gone"
        return Unmet(f"spec.after.run: waits for run {first.name}, and there is none of that name in namespace {namespace}; {mend}")
    said = f": {first.message}" if first.message else ""
    if first.phase == "Failed":
        return Unmet(f"spec.after.run: run {first.name}, for which this one waits, has failed{said}; mend that run", "AwaitedRunFailed")
    return Unmet(f"waits for run {first.name} to succeed, which is {first.phase}{said}")


def unmet_origin(origin: Prerequisite) -> Unmet:
    """Why a run must wait that begins from one whose checkpoints have no place yet: it takes its root with its first attempt.

    The other's own words are left out: it may wait for this one, and then each would repeat the other's, and its own in them, for ever.
    """
    if origin.phase == "Failed":
        sentence = f"run {origin.name} has failed before it began, so where its checkpoints are is not known; mend that run"
        return Unmet(f"spec.from.run: {sentence}", "OriginUnknown")
    return Unmet(f"spec.from.run: waits for run {origin.name} to begin, which is {origin.phase}; before, it has no place for checkpoints")
