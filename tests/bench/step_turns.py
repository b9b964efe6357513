"""The parts that benchmarks of the training step share: one pinned thread, Halcyon's step, a peer in a child process,
and their ratios.

The programs run in turns, one step a turn, on the same processor, so that a busy machine slows all equally. A child
process prints one line of JSON when it is ready. For each line that it reads, the name of a case, it runs one step of
the case and prints the seconds of its parts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.parallel.device_mesh import build_mesh
from halcyon.step.compilation import compiler_options
from halcyon.step.program import Program, build_program
from halcyon.step.state import initial_state
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec


class Seconds(NamedTuple):
    """Seconds of the wall clock, and of the processor.

    The second does not count the time of other programs on a busy machine.
    """

    wall: float
    processor: float


class Sizes(NamedTuple):
    """Sizes of a batch and of the vocabulary."""

    vocabulary: int
    length: int
    batch: int

    @property
    def tokens(self) -> int:
        return self.length * self.batch


Turn = Callable[[], Mapping[str, Seconds]]
"""Runs one step, and returns the seconds of its parts by name."""


LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Lets the C library ask for large pages, which need fewer page faults: the same for all programs that are compared."""


def start_on_one_processor() -> None:
    """Use one processor only, and large pages, in this process and its children. Call it before JAX is used.

    The C library reads the variables at the start of a process, so a process without them starts again.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # JAX then makes one thread for computing
    if not LARGE_PAGES.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | LARGE_PAGES)  # noqa: S606 - no shell is needed
    jax.config.update("jax_platforms", "cpu")


def seconds(run: Callable[[], object]) -> Seconds:
    """The time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor)


class Halcyon:
    """The compiled step of a run, and the part of it that computes loss and gradients, on random tokens.

    Args:
        model: ``spec.model``.
        sizes: Sizes of the batch. The vocabulary must be a multiple that needs no padding.
    """

    def __init__(self, model: Mapping[str, Any], sizes: Sizes) -> None:
        self._program = program_of(model, sizes)
        self._batch = _random_batch(self._program, sizes)
        self._control = jax.device_put(np.zeros(1, np.int32), self._program.control_sharding)
        self._state = jax.block_until_ready(initial_state(self._program.build_state, self._program.template))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.model))
        self._step = self._program.compile_step(sizes.batch, sizes.length)
        self._gradients = self._compile_gradients()

    def _compile_gradients(self) -> jax.stages.Compiled:
        objective = self._program.objective

        def loss(model: Any, batch: Any) -> jax.Array:
            sums = objective(model, jax.tree.map(lambda rows: rows[0], batch), None, jax.random.key(0))
            return sums.loss / jnp.maximum(sums.weight, 1.0)

        with self._program.tracing():
            lowered = jax.jit(jax.value_and_grad(loss)).lower(self._state.model, self._batch)
        return lowered.compile(compiler_options=compiler_options())

    def step(self) -> dict[str, Seconds]:
        """One optimizer step: loss, gradients, clipping, AdamW, the check for divergence."""

        def run() -> None:
            self._state, metrics = self._step(self._state, self._batch, self._control)
            jax.block_until_ready((self._state, metrics))

        return {"step": seconds(run)}

    def gradients(self) -> dict[str, Seconds]:
        """Loss and gradients only."""
        return {"gradients": seconds(lambda: jax.block_until_ready(self._gradients(self._state.model, self._batch)))}


def program_of(model: Mapping[str, Any], sizes: Sizes) -> Program:
    """The program of `training_spec` on one device."""
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1), jax.devices()[:1])
    return build_program(training_spec(model, sizes), sizes.vocabulary, mesh)


def training_spec(model: Mapping[str, Any], sizes: Sizes) -> TrainingRunSpec:
    """A run of AdamW with plain causal attention, float32.

    Args:
        model: ``spec.model``.
        sizes: Sizes of the batch.
    """
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": dict(model),
            "data": {"sources": [{"name": "random", "stdlib": {}}], "attendAcrossDocuments": True},
            "optimizer": {"learningRate": 0.0003, "weightDecay": 0.1, "adamw": {}},
            "trainer": {"steps": 1000, "batchSize": sizes.batch, "sequenceLength": sizes.length},
            "checkpoint": {"root": "file:///unused"},
        }
    )


def _random_batch(program: Program, sizes: Sizes) -> dict[str, jax.Array]:
    shape = (1, sizes.batch, sizes.length)
    tokens = np.random.default_rng(0).integers(0, sizes.vocabulary, shape)
    arrays = {"tokens": tokens, "targets": np.roll(tokens, -1, -1), "weights": np.ones(shape)}
    return {
        name: jax.device_put(arrays[name].astype(dtype), program.batch_sharding)
        for name, dtype in program.objective.fields.items()
    }


class Peer:
    """A child process with another project's step. It prepares itself at once; ``with`` waits until it is ready.

    Args:
        python: The interpreter of the other project's environment.
        script: The child's script.
        arguments: Its arguments.
        variables: Further environment variables. The child does not inherit `LARGE_PAGES`.
    """

    def __init__(
        self, python: str | Path, script: Path, arguments: Sequence[object], variables: Mapping[str, str]
    ) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JAX_", "XLA_", "PYTHON", "GLIBC_"))
        }
        self._process = subprocess.Popen(
            [str(python), str(script), *map(str, arguments)],
            env=inherited
            | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            | dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self.facts = self._answer()
        """The child's first line."""
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def turn(self, case: str) -> Turn:
        """A function that runs one step of a case."""

        return lambda: {name: Seconds(*found) for name, found in self.ask(case).items()}

    def ask(self, case: str) -> dict[str, Any]:
        """Run a case, and return the child's line."""
        print(case, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"the child process ended with exit code {self._process.wait()}")
        return json.loads(line)


def in_turns(turns: Mapping[str, Turn], rounds: int) -> dict[str, list[Seconds]]:
    """Run every turn once a round, in an order that is reversed in every other round. The first round is not counted.

    Returns:
        The seconds of each part of each turn, by "turn, part"; a turn of one part has the name of the turn.
    """
    found: dict[str, list[Seconds]] = {}
    names = list(turns)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            parts = turns[name]()
            for part, taken in parts.items():
                found.setdefault(name if len(parts) == 1 else f"{name}, {part}", []).append(taken)
    return {name: times[1:] for name, times in found.items()}


def ratio(found: Mapping[str, list[Seconds]], ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How many times as fast as theirs ours are: ratios of the medians of sums of parts, by wall clock and by processor
    time.
    """
    cells = []
    for clock in Seconds._fields:
        medians = [
            statistics.median(sum(getattr(part, clock) for part in parts) for parts in _zipped(found, names))
            for names in (ours, theirs)
        ]
        cells.append(f"{medians[1] / medians[0]:.2f} by {clock} time")
    return ", ".join(cells)


def table(found: Mapping[str, list[Seconds]], tokens: int) -> str:
    """A line for each name: medians, the shortest processor time, and tokens a second by the median of the processor
    time.
    """
    width = max(map(len, found))
    lines = [f"{'ms':{width}}     wall  processor  shortest  tokens/s"]
    for name, times in found.items():
        wall, processor = (statistics.median(getattr(taken, clock) for taken in times) for clock in Seconds._fields)
        least = min(taken.processor for taken in times)
        lines.append(
            f"{name:{width}} {wall * 1e3:8.1f}  {processor * 1e3:9.1f}  {least * 1e3:8.1f}  {tokens / processor:8,.0f}"
        )
    return "\n".join(lines)


def _zipped(found: Mapping[str, list[Seconds]], names: Sequence[str]) -> zip[tuple[Seconds, ...]]:
    return zip(*(found[name] for name in names), strict=True)
