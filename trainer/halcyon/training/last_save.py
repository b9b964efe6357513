"""Which save to try at a notice of preemption, by the time until the process is killed. Pure.

A process that is killed in the middle of a save has saved nothing, and its end looks like a crash. So it tries only a save that it can be
expected to finish, and leaves with the exit code of a preemption in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_api.progress import Saved

MARGIN_RATIO = 1.2
"""A save is expected to take this times the longest of the last saves."""
MARGIN_SECONDS = 1.0
"""Seconds that are kept for leaving."""


@dataclass(frozen=True)
class SaveBudget:
    """The time for a last save, as the processes know it at a notice; the same on all of them."""

    left_seconds: float | None
    """Until the process is killed; None: it is not."""
    save_seconds: float | None
    """Expected duration of a save, from copy to commit; None: no save has been made yet."""
    in_flight_seconds: float | None
    """Expected time until the save in flight is committed; None: there is no save in flight."""
    step_begun: bool = False
    """Whether the save in flight, or the last one, is of this step."""


def choose(budget: SaveBudget) -> Saved:
    """Which save to try.

    The duration of a first save is not known; it is tried, because trying loses nothing.
    """
    left, save, in_flight = budget.left_seconds, budget.save_seconds, budget.in_flight_seconds
    if left is None:
        return "step"
    first = in_flight or 0.0
    if budget.step_begun:
        # No other save is to begin. One that cannot be expected to finish is given up at once.
        return "step" if in_flight is None or _fits(first, left) else "none"
    if save is None or _fits(first + save, left):
        return "step"
    return "inFlight" if in_flight is not None and _fits(first, left) else "none"


def longest_wait(budget: SaveBudget) -> float | None:
    """How long to wait for the chosen save, in seconds; None: without a limit."""
    return None if budget.left_seconds is None else max(0.0, budget.left_seconds - MARGIN_SECONDS)


@dataclass(frozen=True)
class LastSave:
    """How the last steps of a preempted process were saved, or why not."""

    saved: Saved
    step: int
    """Steps done."""
    committed_step: int
    """Step of the newest committed checkpoint, as far as this process knows; 0 for none."""
    budget: SaveBudget
    problem: str = ""
    """Why a save that was tried failed, if it reported a reason."""

    def sentence(self) -> str:
        """For people."""
        if self.saved == "step":
            return f"a notice of preemption came; step {self.step} is saved"
        again = "nothing is lost"
        if self.committed_step < self.step:
            again = f"steps {self.committed_step + 1} to {self.step} will be done again"
        if self.problem:
            return f"a notice of preemption came; {self.problem}; {again}"
        left = f"a notice of preemption came with {max(0.0, self.budget.left_seconds or 0.0):.1f} s left"
        took = "the save was not done in time"
        if self.budget.save_seconds is not None:
            took = f"a save takes {self.budget.save_seconds:.1f} s"
        if self.saved == "inFlight":
            return f"{left}; {took}, so only the one under way, of step {self.committed_step}, was finished; {again}"
        return f"{left}; {took}, so none was finished; {again}"


def _fits(seconds: float, left: float) -> bool:
    return MARGIN_RATIO * seconds + MARGIN_SECONDS <= left
