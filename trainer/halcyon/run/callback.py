"""A callback of a training: an optional feature of a run that works beside its steps, such as exports, tasks or
profiles. `halcyon.run.features` lists them.
"""

from collections.abc import Callable

from halcyon.step.objectives.objective import Batch
from halcyon.step.state import TrainState

Settle = Callable[[], None]
"""Waits for the dispatched step, and reports its numbers."""


class Callback:
    """What the loop asks and calls at each step. A callback overrides what it needs.

    The loop calls every method in the main thread, for all callbacks in the same order on all processes. Steps are
    counted from 1, so `step` is also the number of steps done after it. A callback changes no number of the training.
    """

    saves = True
    """Whether a step at which the callback is due is saved before `after` is called."""

    def before(self, step: int, settle: Settle) -> None:
        """A step is dispatched next."""

    def dispatched(self, step: int, settle: Settle) -> None:
        """A step has just been dispatched. The first step of this process has also ended, and is reported."""

    def stepped(self, step: int, state: TrainState, batch: Batch) -> None:
        """A step has been dispatched, and its state is not saved yet.

        Args:
            step: Steps done.
            state: The state after them. The next step donates its buffers: do not keep it.
            batch: The batch of the step.
        """

    def saving(self, step: int, state: TrainState) -> None:
        """A state is saved next."""

    def due(self, step: int, *, is_last: bool) -> bool:
        """Whether `after` is called. The same on all processes, and after each restart.

        Args:
            step: Steps done.
            is_last: Whether the run ends with this step, also as one that stops early.
        """
        return False

    def after(self, step: int, state: TrainState) -> bool:
        """A step at which the callback is due is evaluated, reported, and saved if the callback `saves`. Called again
        if this process resumes at the step.

        Args:
            step: Steps done.
            state: The state after them. The next step donates its buffers: do not keep it.

        Returns:
            False: a notice of preemption came, and all processes must stop.
        """
        return True

    def leave(self) -> None:
        """A notice of preemption came: end the work under way without a wait, so that the last save has the network and
        the memory.
        """

    def finish(self) -> bool:
        """All steps are done and saved: complete the work of the callback.

        False: a notice of preemption came first.
        """
        return True

    def close(self) -> None:
        """End the threads.

        Called at every end of the training, also after an error, when this process has left the others.
        """
