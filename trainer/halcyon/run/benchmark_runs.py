"""Runs the benchmarks of a document while its run trains: every N steps, and after the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from halcyon.checkpoint import Checkpointer
from halcyon.checkpoint.rollback import until
from halcyon.evals.benchmarks import Benchmark
from halcyon.evals.shared import SharedRunner, asking_of
from halcyon.run.companion import Companion
from halcyon.run.place import Place
from halcyon.step.program import Program
from halcyon.step.state import TrainState
from halcyon.storage.store import Store
from halcyon.tokenizer import Tokenizer


class BenchmarkRuns(Companion):
    """The benchmarks of a training. Creating it is a collective.

    Args:
        benchmarks: The benchmarks.
        place: The run.
        program: Its program.
        tokenizer: Its tokenizer.
        checkpointer: Its checkpoints.
        is_stopped: Whether a notice of preemption came to any process.

    Raises:
        BadConfiguration: See `SharedRunner`.
    """

    def __init__(
        self,
        benchmarks: Sequence[Benchmark],
        place: Place,
        program: Program,
        tokenizer: Tokenizer,
        checkpointer: Checkpointer,
        is_stopped: Callable[[], bool],
    ) -> None:
        spec, processes, self._reporter = place.spec, place.processes, place.reporter
        self._steps, self._program, self._checkpointer = spec.trainer.steps, program, checkpointer
        root = Store(spec.checkpoint)
        asking = asking_of(root, processes, spec=spec)
        self._runner = SharedRunner(
            benchmarks, spec, tokenizer, asking, root, processes, place.reporter, is_stopped=is_stopped
        )

    def due(self, step: int, *, is_last: bool) -> bool:
        """See `Companion`."""
        return is_last or self._runner.is_due(step, self._steps)

    def after(self, step: int, state: TrainState) -> bool:
        """Run the benchmarks whose results the root lacks. False: a notice came."""
        self._reporter.stage("evaluating")
        came = self._runner.while_training(
            step, self._program.evaluated(state), until(self._checkpointer.skipped, step)
        )
        self._reporter.stage("training")
        return came
