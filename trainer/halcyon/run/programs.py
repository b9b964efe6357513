"""The compiled programs of a run: which step runs for which batch, where it is kept, and what is in it.

There is one program for each batch size and sequence length in the batch schedule, and a second one of each size in a
run that watches its parameters (`halcyon.step.watch`). Compilation needs only shapes. So the first program is compiled
while the checkpoint is read, and later ones in the background while the loop runs. The checkpoint root keeps the
programs for the next start (`halcyon.step.compilation`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from pathlib import Path

import jax

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.host.errors import BadConfiguration
from halcyon.host.memory import machine_memory
from halcyon.host.storage.failures import Abandoned, StoreFailure
from halcyon.host.storage.files import begin
from halcyon.host.storage.store import Store
from halcyon.parallel.process_group import enable_compilation_cache
from halcyon.run.auto_tuning import memory_of
from halcyon.run.callback import Callback, Settle
from halcyon.run.place import Place
from halcyon.step.compilation import CompilationCache, program_key
from halcyon.step.device_use import event_fields, plan_of
from halcyon.step.objectives.objective import Batch
from halcyon.step.program import STEP_MODULE, Program, TrainStep
from halcyon.step.state import state_bytes
from halcyon_api import counting

_AHEAD_STEPS = 200
"""A program is compiled this number of steps before its first use."""
COPY_SECONDS = 10.0
"""Longest wait at the end of a run for the programs that are being copied to its root."""


class Programs(Callback):
    """Compiled steps by batch size and sequence length.

    Args:
        program: The program to compile.
        background: Threads for the compilation.
        kept: Where they are kept.
    """

    def __init__(self, program: Program, background: Executor, kept: KeptPrograms) -> None:
        self.program = program
        """The program before its compilation."""
        self.newest = None
        """The compiled step that was used last."""
        self._background, self._kept = background, kept
        # Before the first program, which waits for it.
        self._fetched = background.submit(kept.fetch)
        """Done when the programs that the root keeps are here."""
        self._published = False
        self._copies: list[Future[None]] = []
        self._compiled: dict[tuple[int, int, bool], Future[TrainStep]] = {}
        self._used: set[tuple[int, int, bool]] = set()
        self._lock = threading.Lock()

    def start(self, batch_size: int, sequence_length: int, *, watched: bool = False) -> Future[TrainStep]:
        """Start to compile the step for batches of this size, unless that has begun already."""
        size = (self.program.padded(batch_size), sequence_length, watched)
        with self._lock:
            if size not in self._compiled:
                self._compiled[size] = self._background.submit(self._compile, batch_size, sequence_length, watched)
            return self._compiled[size]

    def start_for(self, schedule: BatchSchedule, step: int) -> None:
        """Start to compile the program of a step, counted from 0."""
        period = schedule.period_of(step)
        self.start(period.batch_size, period.sequence_length)

    def of(self, batch: Batch, *, watched: bool = False) -> TrainStep:
        """The program for a batch; waits while it is being compiled.

        Args:
            batch: The batch.
            watched: Whether the step is watched, in a run that watches.
        """
        rows, length = self.program.size_of(batch)
        size = (rows, length, watched)
        self.newest = self.start(rows, length, watched=watched).result()
        if size not in self._used:
            self._used.add(size)
            self._published = False
        return self.newest

    def prepare(self, schedule: BatchSchedule, step: int) -> None:
        """Start to compile the programs of periods that begin within `_AHEAD_STEPS` steps after this step."""
        for period in schedule.periods:
            if step < period.first_step <= step + _AHEAD_STEPS:
                self.start(period.batch_size, period.sequence_length)

    def dispatched(self, step: int, settle: Settle) -> None:
        """See `Callback`."""
        if not self._published:
            self._published = True
            self._copies.append(begin(self._kept.publish, name="keep-programs"))

    def leave(self) -> None:
        """See `Callback`."""
        self._kept.stop()

    def close(self) -> None:
        """Wait for the copies to the root, which are useful but not needed: its store may never answer."""
        wait(self._copies, COPY_SECONDS)
        self._kept.stop()

    def further(self, lowered: jax.stages.Lowered, module: str) -> jax.stages.Compiled:
        """Compile another program of the run, which the checkpoint root keeps too.

        Args:
            lowered: The program.
            module: Name of its module.
        """
        self._fetched.result()
        compiled = self.program.compile(lowered)
        self._kept.keep(module, compiled)
        self._published = False
        return compiled

    def beside(self, compile_it: Callable[[], object]) -> None:
        """Compile a program beside the steps, so that its first use finds it. A compilation is no collective.

        Nothing waits for the thread: the end of a run has no time for a compilation.
        """
        threading.Thread(target=self._kept.guarded, args=(compile_it,), name="compile-beside").start()

    def _compile(self, batch_size: int, sequence_length: int, watched: bool) -> TrainStep:
        self._fetched.result()
        compiled = self.program.compile_step(batch_size, sequence_length, watched=watched)
        if self.program.watched_step is not None and not watched:
            self.start(batch_size, sequence_length, watched=True)
        self._kept.compiled(compiled, batch_size, sequence_length)
        return compiled


def open_cache(place: Place, directory: Path) -> CompilationCache:
    """The cache of a run's compiled programs, with its copy in the checkpoint root. JAX uses it from now on.

    Args:
        place: The run, without automatic values, and its mesh.
        directory: Local directory of compiled programs.
    """
    document = place.spec.document()
    depends = {name: document[name] for name in ("model", "tokenizer", "optimizer", "objective", "trainer")}
    depends["divergence"] = document["recovery"]["divergence"]
    depends |= {name: document[name] for name in ("adapter", "average") if name in document}
    key = program_key({**depends, "mesh": place.context.mesh.document()})
    selective = place.processes.distributed and jax.default_backend() == "cpu"
    stopped = threading.Event()
    store = Store(place.spec.checkpoint, abandoned=stopped.is_set)
    cache = CompilationCache(directory, store, key, selective=selective, stopped=stopped)
    enable_compilation_cache(str(cache.directory))
    return cache


class KeptPrograms:
    """Keeps the compiled steps of a run in its checkpoint root, and reports what is in them.

    Without the root a process compiles and trains all the same, so a failure of the store is only a warning. To read a
    large program takes a part of a second, so no plan is read before the first step.

    Args:
        place: The run, with the values chosen for its automatic fields.
        program: The program of the run.
        cache: The cache of `open_cache`.
    """

    def __init__(self, place: Place, program: Program, cache: CompilationCache) -> None:
        self._place, self._program, self._cache, self._reporter = place, program, cache, place.reporter
        self._waiting: list[tuple[jax.stages.Compiled, int, int]] | None = []
        """Steps whose plan is not reported yet; None: `publish` was called."""
        self._lock = threading.Lock()

    def fetch(self) -> None:
        """Copy the programs from the root."""
        try:
            self._cache.fetch()
        except (OSError, StoreFailure) as error:
            self._reporter.warning(
                f"compiled programs could not be fetched from the checkpoint root, so this process compiles: {error}"
            )

    def compiled(self, step: jax.stages.Compiled, batch_size: int, sequence_length: int) -> None:
        """Report a compiled step, check that it fits into the memory of the machine, and keep it.

        Raises:
            BadConfiguration: It does not fit.
        """
        self._reporter.attends(self._program.attention_choices)
        with self._lock:
            waiting = self._waiting
            if waiting is not None:
                waiting.append((step, batch_size, sequence_length))
        if waiting is None:
            self._report(step, batch_size, sequence_length)
        if jax.default_backend() == "cpu":  # the compiler of an accelerator itself rejects a program that does not fit
            check_step_memory(step, machine_memory(), devices=jax.local_device_count())
        self.keep(STEP_MODULE, step)

    def guarded(self, compile_it: Callable[[], object]) -> None:
        """Compile a program. A failure is a warning, because its first use then compiles it."""
        try:
            compile_it()
        except Exception as error:
            self._reporter.warning(
                f"a program could not be compiled beside the steps, so its first use does it: {error}"
            )

    def keep(self, module: str, program: jax.stages.Compiled) -> None:
        """Keep a compiled program, which `publish` copies."""
        self._cache.compiled(module, program)

    def stop(self) -> None:
        """Abandon the copies to the root."""
        self._cache.stopped.set()

    def publish(self) -> None:
        """Copy the programs to the root and report their plans, on process 0."""
        if not self._place.processes.is_main:
            return
        try:
            with contextlib.suppress(Abandoned):
                self._cache.publish(reserved_bytes=2 * state_bytes(self._program.template))
        except (OSError, StoreFailure) as error:
            self._reporter.warning(
                f"compiled programs could not be copied to the checkpoint root, so a restart compiles again: {error}"
            )
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for one in waiting:
            self._report(*one)

    def _report(self, step: jax.stages.Compiled, batch_size: int, sequence_length: int) -> None:
        spec = self._place.spec
        remat, memory_bytes = spec.trainer.remat, memory_of(spec)
        try:
            plan = plan_of(self._program, step, batch_size, sequence_length, remat=remat, memory_bytes=memory_bytes)
        except (KeyError, ValueError) as error:  # another XLA may write its programs in another way
            self._reporter.warning(f"the plan of the step could not be read from its program: {error!r}")
            return
        self._reporter.event("plan", plan=plan.sentence(), **event_fields(plan))


def check_step_memory(compiled: jax.stages.Compiled, available_bytes: int | None, *, devices: int) -> None:
    """Reject a compiled step that cannot run in the memory that its devices share, if the compiler reports the size
    that it needs.

    Args:
        compiled: The step.
        available_bytes: Size of the memory; None: unknown.
        devices: Number of devices that share the memory.

    Raises:
        BadConfiguration: The step cannot run; the message says how many bytes it needs, and how many there are.
    """
    found = compiled.memory_analysis()
    needed = devices * sum(getattr(found, f"{kind}_size_in_bytes", 0) for kind in ("argument", "temp"))
    if available_bytes is not None and needed > available_bytes:
        raise BadConfiguration(
            f"spec.trainer.batchSize: a step takes {counting.size(needed)}, and this machine has "
            f"{counting.size(available_bytes)}; "
            "give a smaller batchSize, a shorter sequenceLength, or more microbatches"
        )
