"""Choose the last save after a preemption notice, by the time until the process is killed. Pure.

A process that is killed during a save has saved nothing, and its end counts as a crash. So it tries only a save that is
expected to finish in time, and always exits with the exit code of a preemption.
"""

from dataclasses import dataclass

from halcyon_api.status.progress import Saved

NOTICE = "a notice of preemption came"
"""Why a process saves and ends before its last step."""
NOTHING_TO_SAVE = f"{NOTICE} before the first step; there was nothing to save"
MARGIN_RATIO = 1.2
"""A save must fit into the remaining time with this times its expected duration, which is that of the longest recent
save.
"""
MARGIN_SECONDS = 1.0
"""Seconds of the remaining time that are reserved for the exit after the save."""


@dataclass(frozen=True)
class SaveTime:
    """The time for the last save after a notice; the same on all processes."""

    left_seconds: float | None
    """Seconds until the process is killed; None: no limit."""
    save_seconds: float | None
    """Expected duration of a save, from copy to commit; None: unknown, because no save was made yet."""
    in_flight_seconds: float | None
    """Expected seconds until the save in flight is committed; None: there is no save in flight."""
    step_begun: bool = False
    """Whether the newest save, in flight or committed, is of the last step."""


def choose(budget: SaveTime) -> Saved:
    """Choose the save to try: ``step``, ``inFlight`` or ``none``.

    The duration of a first save is not known. It is tried, because a failed try loses nothing.
    """
    left, save, in_flight = budget.left_seconds, budget.save_seconds, budget.in_flight_seconds
    if left is None:
        return "step"
    first = in_flight or 0.0
    if budget.step_begun:
        # No other save is needed. A save that is not expected to finish in time is abandoned at once.
        return "step" if in_flight is None or _fits(first, left) else "none"
    if save is None or _fits(first + save, left):
        return "step"
    return "inFlight" if in_flight is not None and _fits(first, left) else "none"


def longest_wait(budget: SaveTime) -> float | None:
    """The longest wait for the chosen save, in seconds; None: no limit."""
    return None if budget.left_seconds is None else max(0.0, budget.left_seconds - MARGIN_SECONDS)


@dataclass(frozen=True)
class LastSave:
    """The result of the last save of a preempted process."""

    saved: Saved
    step: int
    """Steps done."""
    committed_step: int
    """Step of the newest checkpoint whose commit this process knows; 0: none."""
    budget: SaveTime
    problem: str = ""
    """The reason that a failed save reported; empty: none."""

    def sentence(self) -> str:
        """The result as one sentence for people. It begins with `NOTICE`."""
        if self.saved == "step":
            return f"{NOTICE}; step {self.step} is saved"
        again = "nothing is lost"
        if self.committed_step < self.step:
            again = f"steps {self.committed_step + 1} to {self.step} will be done again"
        if self.problem:
            return f"{NOTICE}; {self.problem}; {again}"
        left = f"{NOTICE} with {max(0.0, self.budget.left_seconds or 0.0):.1f} s left"
        took = "the save did not finish in time"
        if self.budget.save_seconds is not None:
            took = f"a save takes {self.budget.save_seconds:.1f} s"
        if self.saved == "inFlight":
            return f"{left}; {took}, so only the save in flight, of step {self.committed_step}, was finished; {again}"
        return f"{left}; {took}, so none was finished; {again}"


def _fits(seconds: float, left: float) -> bool:
    return MARGIN_RATIO * seconds + MARGIN_SECONDS <= left
