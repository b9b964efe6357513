"""The compiled programs of a run: fetched from the checkpoint root at the start, and copied to it after the first step.

Without them a process compiles and trains all the same, so a failure of the store is only a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from halcyon.context import Context
from halcyon.errors import BadConfiguration
from halcyon.host.memory import machine_memory
from halcyon.parallel.process_group import ProcessGroup, enable_compilation_cache
from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Store
from halcyon.telemetry import RunReporter
from halcyon.training.compilation import CompilationCache, program_key
from halcyon.training.plan_reports import PlanReports
from halcyon.training.program import STEP_MODULE, Program
from halcyon_api.counting import size


class SharedPrograms:
    """The cache of this run's compiled programs, with its copy in the checkpoint root.

    Args:
        context: The run, without automatic values, and its mesh.
        processes: The processes.
        directory: Local directory of compiled programs.
        reporter: Receives warnings, plans and implementations.
    """

    def __init__(self, context: Context, processes: ProcessGroup, directory: Path, reporter: RunReporter) -> None:
        self._processes, self._reporter = processes, reporter
        document = context.run.spec.document()
        depends = {name: document[name] for name in ("model", "tokenizer", "optimizer", "objective", "trainer")}
        depends["divergence"] = document["recovery"]["divergence"]
        depends |= {name: document[name] for name in ("adapter", "average") if name in document}
        key = program_key({**depends, "mesh": context.mesh.document()})
        selective = processes.distributed and jax.default_backend() == "cpu"
        self._cache = CompilationCache(directory, Store(context.run.spec.checkpoint), key, selective=selective)
        enable_compilation_cache(str(self._cache.directory))

    def fetch(self) -> None:
        """Copy the programs from the root."""
        try:
            self._cache.fetch()
        except (OSError, StoreFailure) as error:
            self._reporter.warning(f"compiled programs could not be fetched from the checkpoint root, so this process compiles: {error}")

    def compiled(self, program: Program, plans: PlanReports, step: jax.stages.Compiled, batch_size: int, sequence_length: int) -> None:
        """Report a compiled step, check that it fits into the memory of the machine, and keep it.

        Raises:
            BadConfiguration: It does not fit.
        """
        self._reporter.attends(program.attention_choices)
        plans.compiled(step, batch_size, sequence_length)
        if jax.default_backend() == "cpu":  # the compiler of an accelerator itself rejects a program that does not fit
            check_step_memory(step, machine_memory(), devices=jax.local_device_count())
        self._cache.compiled(STEP_MODULE, step)

    def publish(self, plans: PlanReports, reserved_bytes: int) -> None:
        """Copy the programs to the root and report their plans, on process 0.

        Args:
            plans: The plans.
            reserved_bytes: See `CompilationCache.publish`.
        """
        try:
            if self._processes.is_main:
                self._cache.publish(reserved_bytes=reserved_bytes)
        except (OSError, StoreFailure) as error:
            self._reporter.warning(f"compiled programs could not be copied to the checkpoint root, so a restart compiles again: {error}")
        if self._processes.is_main:
            plans.start()

    def close(self) -> None:
        """End the copies under way."""
        self._cache.close()


def check_step_memory(compiled: jax.stages.Compiled, available_bytes: int | None, *, devices: int) -> None:
    """Reject a compiled step that cannot run in the memory that its devices share, if the compiler reports the size that it needs.

    Args:
        compiled: The step.
        available_bytes: Size of the memory; None: unknown.
        devices: Number of devices that share the memory.

    Raises:
        BadConfiguration: The step cannot run; the message says how many bytes it needs, and how many there are.
    """
    found: Any = compiled.memory_analysis()
    sizes = [getattr(found, f"{kind}_size_in_bytes", 0) for kind in ("argument", "temp")]
    needed = sum(sizes) * devices
    if available_bytes is not None and needed > available_bytes:
        raise BadConfiguration(
            f"spec.trainer.batchSize: a step takes {size(needed)}, and this machine has {size(available_bytes)}; give a smaller "
            "batchSize, a shorter sequenceLength, or more microbatches"
        )
