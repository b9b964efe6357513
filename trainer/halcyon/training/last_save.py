"""What to save at a notice of preemption, by the time that is left. Pure.

A process that is killed in the middle of a save has saved nothing, and what it leaves behind looks like a crash. So it saves what it can
be expected to finish, and leaves with the code of a preemption in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_api.progress import Saved

MARGIN_RATIO = 1.2
"""A save is taken to need so many times what the longest of the last ones took,"""
MARGIN_SECONDS = 1.0
"""and so much time is kept for the leave itself."""


@dataclass(frozen=True)
class Outlook:
    """What the processes know at a notice; the same on all of them."""

    left_seconds: float | None
    """Until the process is killed; None: nobody kills it."""
    save_seconds: float | None
    """How long a save is expected to take, copy to commit; None: none has been made yet."""
    in_flight_seconds: float | None
    """How long the save that is under way is expected to take still; None: there is none."""
    step_begun: bool = False
    """Whether the save under way, or the last one, is of the very step."""


def choose(outlook: Outlook) -> Saved:
    """What to try.

    A first save has nothing to go by and is tried: nothing is lost by it that is not lost without it.
    """
    left, save, in_flight = outlook.left_seconds, outlook.save_seconds, outlook.in_flight_seconds
    if left is None:
        return "step"
    first = in_flight or 0.0
    if outlook.step_begun:
        # Nothing is to be begun any more; what cannot be expected to finish is given up at once.
        return "step" if in_flight is None or _fits(first, left) else "none"
    if save is None or _fits(first + save, left):
        return "step"
    return "inFlight" if in_flight is not None and _fits(first, left) else "none"


def patience(outlook: Outlook) -> float | None:
    """How long to wait for what was chosen, in seconds; None: for ever."""
    return None if outlook.left_seconds is None else max(0.0, outlook.left_seconds - MARGIN_SECONDS)


@dataclass(frozen=True)
class Farewell:
    """How the last steps of a preempted process were brought to safety, or why not."""

    saved: Saved
    step: int
    """Steps done."""
    committed_step: int
    """Step of the newest committed checkpoint, as far as this process knows; 0 for none."""
    outlook: Outlook
    problem: str = ""
    """Why a save that was tried did not get there, if it said so."""

    def sentence(self) -> str:
        """For people."""
        if self.saved == "step":
            return f"a notice of preemption came; step {self.step} is saved"
        again = "nothing is lost"
        if self.committed_step < self.step:
            again = f"steps {self.committed_step + 1} to {self.step} will be done again"
        if self.problem:
            return f"a notice of preemption came; {self.problem}; {again}"
        left = f"a notice of preemption came with {max(0.0, self.outlook.left_seconds or 0.0):.1f} s left"
        took = "the save was not done in time"
        if self.outlook.save_seconds is not None:
            took = f"a save takes {self.outlook.save_seconds:.1f} s"
        if self.saved == "inFlight":
            return f"{left}; {took}, so only the one under way, of step {self.committed_step}, was finished; {again}"
        return f"{left}; {took}, so none was finished; {again}"


def _fits(seconds: float, left: float) -> bool:
    return MARGIN_RATIO * seconds + MARGIN_SECONDS <= left
