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
        spec, processes, self._reporter = place.spec, place.processes, place.reporter
        self._steps, self._program, self._checkpointer = spec.trainer.steps, setup.programs.program, setup.checkpointer
        root = Store(spec.checkpoint)
        self._runner = SharedRunner(
            setup.benchmarks,
            spec,
            setup.tokenizer,
            asking_of(root, processes, spec=spec),
            root,
            processes,
            place.reporter,
            is_stopped=lambda: setup.sync_point.is_asked,
        )

    def due(self, step: int, *, is_last: bool) -> bool:
        """See `Callback`."""
        return is_last or self._runner.is_due(step, self._steps)

    def after(self, step: int, state: TrainState) -> bool:
        """Run the benchmarks whose results the root lacks. False: a notice came."""
        self._reporter.stage("evaluating")
        came = self._runner.while_training(
            step, self._program.evaluated(state), until(self._checkpointer.skipped, step)
        )
        self._reporter.stage("training")
        return came
