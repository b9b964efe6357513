"""The compiled steps of a run: one for each batch size and sequence length in its batch schedule, each compiled before it is needed.

A run that watches its parameters (`halcyon.training.watch`) has a second program for each size, compiled after the first one.

Compilation needs only shapes. So the first program is compiled while the checkpoint is read, and later ones in the background while the
loop runs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Lock

import jax

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.objectives import Batch
from halcyon.training.program import Program, TrainStep

_AHEAD_STEPS = 200
"""A program is compiled this number of steps before its first use."""


class CompiledSteps:
    """Compiled steps by batch size and sequence length.

    Args:
        program: The program to compile.
        background: Threads for the compilation.
        before_first: Called in one of these threads before the first compilation.
        on_compiled: Called in one of these threads with each compiled step, its batch size and its sequence length.
    """

    def __init__(
        self,
        program: Program,
        background: Executor,
        before_first: Callable[[], object],
        on_compiled: Callable[[jax.stages.Compiled, int, int], object] = lambda step, batch_size, sequence_length: None,
    ) -> None:
        self._program = program
        self._background = background
        self._on_compiled = on_compiled
        self._before_first: Callable[[], object] | None = before_first
        self._compiled: dict[tuple[int, int, bool], Future[TrainStep]] = {}
        self._lock = Lock()

    def start(self, batch_size: int, sequence_length: int, *, watched: bool = False) -> Future[TrainStep]:
        """Start to compile the step for batches of this size, unless that has begun already."""
        size = (batch_size, sequence_length, watched)
        with self._lock:
            if size not in self._compiled:
                self._compiled[size] = self._background.submit(self._compile, *size)
            return self._compiled[size]

    def start_for(self, schedule: BatchSchedule, step: int) -> None:
        """Start to compile the program of a step, counted from 0."""
        stage = schedule.stage_of(step)
        self.start(stage.batch_size, stage.sequence_length)

    def of(self, batch: Batch, *, watched: bool = False) -> TrainStep:
        """The program for a batch; waits while it is being compiled.

        Args:
            batch: The batch.
            watched: Whether the step is watched, in a run that watches.
        """
        microbatches, rows, length = jax.tree.leaves(batch)[0].shape
        return self.start(microbatches * rows, length, watched=watched).result()

    def prepare(self, schedule: BatchSchedule, step: int) -> None:
        """Start to compile the programs of stages that begin within `_AHEAD_STEPS` steps after this step."""
        for stage in schedule.stages:
            if step < stage.first_step <= step + _AHEAD_STEPS:
                self.start(stage.batch_size, stage.sequence_length)

    def _compile(self, batch_size: int, sequence_length: int, watched: bool) -> TrainStep:
        if self._before_first is not None:
            self._before_first()
            self._before_first = None
        compiled = self._program.compile_step(batch_size, sequence_length, watched=watched)
        if self._program.watched_step is not None and not watched:
            self.start(batch_size, sequence_length, watched=True)
        self._on_compiled(compiled, batch_size, sequence_length)
        return compiled
