"""Steps per second of the trainer's loop, compared with the same compiled step in a plain loop.

Both run in turns in one process on the same state and batches, so that a busy machine slows both equally. The trainer's
loop adds data made ahead, metrics fetched one step late, log lines, the preemption check and the save decision.

    python tests/bench/bench_loop.py [RUN.YAML] [--steps 60] [--pairs 5]
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.evidence import StepNumbers
from halcyon.data.loader import Loader
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup, join
from halcyon.parallel.sync_point import SyncPoint
from halcyon.run.context import resolve_context
from halcyon.run.loop import Training
from halcyon.run.place import Place
from halcyon.run.programs import Programs
from halcyon.step.batch_source import dataset_batches
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.telemetry import JsonLog, RunIdentity, RunPlan, RunReporter, SaveRequests

sys.path.append(str(Path(__file__).parents[2]))
from tests.trainer.support.datasets import open_dataset


class NoCaches:
    """Stands in for the builder of token caches, which are finished here."""

    def stop(self) -> None:
        return None


class NothingKept:
    """Stands in for the root that keeps compiled programs."""

    def fetch(self) -> None:
        return None

    def compiled(self, step: Any, batch_size: int, sequence_length: int) -> None:
        return None

    def publish(self) -> None:
        return None


class NoSaves:
    """Stands in for the checkpointer, which has its own benchmark."""

    newest = None
    skipped = ()

    def finish(self) -> None:
        return None

    def save(self, *_: Any) -> None:
        return None

    def should_save(self, step: int) -> bool:
        return False

    def due(self, now: float) -> bool:
        return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path, default=Path("examples/local-llama.yaml"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(1) as background:
        measure(options, root, background)


def measure(options: argparse.Namespace, root: str, background: ThreadPoolExecutor) -> None:
    """Measure pairs of speeds, and print them.

    Args:
        options: The options of the command line.
        root: Folder of the token cache.
        background: Executor that compiles the step.
    """
    context = resolve_context(options.run, {}, checkpoint_root=f"file://{root}")
    no_evaluation = context.run.spec.trainer.evaluation.model_copy(
        update={"every_steps": 0}
    )  # separate work that is no cost of the loop
    settings = context.run.spec.trainer.model_copy(update={"steps": options.steps, "evaluation": no_evaluation})
    spec = context.run.spec.model_copy(update={"trainer": settings})
    context = type(context)(**{**context.__dict__, "run": context.run.model_copy(update={"spec": spec})})
    join(None, 0, 1, context.topology.devices)
    mesh = build_mesh(context.mesh)
    dataset = open_dataset(spec)
    program = build_program(spec, dataset.tokenizer.vocab_size, mesh)
    kept: Any = NothingKept()
    steps = Programs(program, background, kept)
    step = steps.start(settings.batch_size, settings.sequence_length).result()
    start = jax.block_until_ready(initial_state(program.build_state, program.template))
    processes, notice = ProcessGroup(0, 1), PreemptionNotice()
    how = {
        "microbatches": settings.microbatches,
        "sharding": program.batch_sharding,
        "fields": program.objective.fields,
    }
    with Loader(dataset, **how) as loader:
        batches = [loader.batch(number) for number in range(options.steps)]
    control = jax.make_array_from_process_local_data(
        program.control_sharding, np.zeros(mesh.size, np.int32), (mesh.size,)
    )

    def bare() -> float:
        state: Any = jax.tree.map(jnp.copy, start)
        began = time.perf_counter()
        for batch in batches:
            state, metrics = step(state, batch, control)
        jax.block_until_ready((state, metrics))
        return options.steps / (time.perf_counter() - began)

    def trainer() -> float:
        identity = RunIdentity(run="bench")
        plan = RunPlan(steps=options.steps, tokens_before=dataset.schedule.tokens_before)
        reporter = RunReporter(identity, plan, JsonLog(io.StringIO(), identity))
        caches: Any = NoCaches()
        saves: Any = NoSaves()
        loop = Training(
            place=Place(context, processes, reporter),
            programs=steps,
            dataset=dataset,
            batches=dataset_batches(dataset, program, settings),
            caches=caches,
            checkpointer=saves,
            notice=notice,
            sync_point=SyncPoint(processes),
            requests=SaveRequests(),
            clock=time.time,
            numbers=StepNumbers(),
            last_step=options.steps,
        )
        state: Any = jax.tree.map(jnp.copy, start)
        began = time.perf_counter()
        loop.run(state, 0)
        ended = time.perf_counter()
        loop.close()
        return options.steps / (ended - began)

    bare(), trainer()
    ratios = []
    for pair in range(options.pairs):
        first, second = bare(), trainer()
        ratios.append(second / first)
        print(f"pair {pair}: bare {first:8.2f} steps/s   halcyon {second:8.2f} steps/s   ratio {ratios[-1]:.3f}")
    print(f"halcyon / bare, median of {options.pairs} pairs: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
