"""Runs the tasks of a document while its run trains: every N steps, and after the last one."""

from __future__ import annotations

from collections.abc import Callable

from halcyon.checkpoint import Checkpointer
from halcyon.checkpoint.rollback import until
from halcyon.storage.store import Store
from halcyon.tokenizer import Tokenizer
from halcyon.training.companion import Companion
from halcyon.training.place import Place
from halcyon.training.program import Program
from halcyon.training.state import TrainState
from halcyon.training.tasks import ModelTasks, TaskPlan, asking_of


class TaskRuns(Companion):
    """The tasks of a training. Creating it is a collective.

    Args:
        plan: The tasks.
        place: The run.
        program: Its program.
        tokenizer: Its tokenizer.
        checkpointer: Its checkpoints.
        is_stopped: Whether a notice of preemption came to any process.

    Raises:
        BadConfiguration: See `ModelTasks`.
    """

    def __init__(
        self,
        plan: TaskPlan,
        place: Place,
        program: Program,
        tokenizer: Tokenizer,
        checkpointer: Checkpointer,
        is_stopped: Callable[[], bool],
    ) -> None:
        spec, processes, self._reporter = place.spec, place.processes, place.reporter
        self._plan, self._steps, self._program, self._checkpointer = plan, spec.trainer.steps, program, checkpointer
        root = Store(spec.checkpoint)
        asking = asking_of(root, processes, spec=spec)
        self._tasks = ModelTasks(plan, spec, tokenizer, asking, root, processes, place.reporter, is_stopped=is_stopped)

    def due(self, step: int, *, is_last: bool) -> bool:
        """See `Companion`."""
        return is_last or self._plan.is_due(step, self._steps)

    def after(self, step: int, state: TrainState) -> bool:
        """Run the tasks whose results the root lacks. False: a notice came."""
        self._reporter.stage("evaluating")
        came = self._tasks.while_training(step, self._program.evaluated(state), until(self._checkpointer.skipped, step))
        self._reporter.stage("training")
        return came
