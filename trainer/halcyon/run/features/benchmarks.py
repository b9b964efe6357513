"""Runs the benchmarks of a document while its run trains: every N steps, and after the last one."""

from halcyon.checkpoint.rollback import until
from halcyon.host.storage.store import Store
from halcyon.run.callback import Callback
from halcyon.run.setup import Setup
from halcyon.step.state import TrainState
from halcyon_api.spec.evaluation import TasksSpec


class BenchmarkRuns(Callback):
    """The benchmarks of a training. Creating it is a collective.

    Args:
        tasks: ``spec.trainer.evaluation.tasks``, whose benchmarks `setup` has.
        setup: The training.

    Raises:
        BadConfiguration: See `SharedRunner`.
    """

    def __init__(self, tasks: TasksSpec, setup: Setup) -> None:
        from halcyon.run.benchmarks import SharedRunner, asking_of  # the import of inference takes time

        place = setup.place
        self._every_steps, self._reporter = tasks.every_steps, place.reporter
        self._checkpointer = setup.checkpointer
        root = Store(place.spec.checkpoint)
        self._runner = SharedRunner(
            setup.benchmarks,
            place.spec,
            setup.tokenizer,
            asking_of(root, place.processes, spec=place.spec),
            root,
            place.processes,
            place.reporter,
            trains=True,
            is_stopped=lambda: setup.sync_point.is_asked,
        )

    def due(self, step: int, *, is_last: bool) -> bool:
        """See `Callback`."""
        return is_last or (self._every_steps > 0 and step % self._every_steps == 0)

    def after(self, step: int, state: TrainState) -> bool:
        """Run the benchmarks whose results the root lacks. False: a notice came."""
        came = self._runner.while_training(step, state.model, until(self._checkpointer.skipped, step))
        self._reporter.stage("training")
        return came
