"""The cost of ``recovery.audit``: seconds of an audit compared with a step, in pairs, on the same state and batch.

    python tests/bench/bench_audit.py [RUN.YAML] [--every 200] [--pairs 7]

It prints the share of a run's time that the audits take: audit / (every x step). On a processor it uses processor
seconds, which other programs of the machine hardly change; on an accelerator the time of both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.process_group import join
from halcyon.run.context import resolve_context
from halcyon.step.audit import Audit
from halcyon.step.program import build_program
from halcyon.step.state import initial_state


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path, default=Path("examples/local-llama.yaml"))
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    context = resolve_context(options.run, {}, checkpoint_root="file:///tmp/bench-audit")
    join(None, 0, 1, context.topology.devices)
    program = build_program(context.spec, 259, build_mesh(context.mesh))
    settings = context.spec.trainer
    step = program.compile_step(settings.batch_size, settings.sequence_length)
    shape = (program.microbatches, settings.batch_size // program.microbatches, settings.sequence_length)
    noise = np.random.default_rng(0)
    values: dict[str, Any] = {"weights": np.ones(shape, np.float32)}
    batch = {
        name: jax.device_put(
            values.get(name, noise.integers(0, 2 if "segment" in name else 256, shape).astype(dtype)),
            program.batch_sharding,
        )
        for name, dtype in program.objective.fields.items()
    }
    control = jax.device_put(jnp.zeros(program.mesh.size, jnp.int32), program.control_sharding)
    audit, state = Audit(program), initial_state(program.build_state, program.template)
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter

    def seconds(work: Callable[[], Any]) -> float:
        began = clock()
        jax.block_until_ready(work())
        return clock() - began

    def steps() -> Any:
        nonlocal state
        state, metrics = step(state, batch, control)
        return state, metrics

    def audited() -> None:
        assert audit.state(state) is None
        assert audit.gradient(state, batch) is None

    seconds(steps), seconds(audited)
    pairs = [(seconds(steps), seconds(audited)) for _ in range(options.pairs)]
    ratio = statistics.median(second / first for first, second in pairs)
    print(
        f"{options.run.stem}: step {statistics.median(first for first, _ in pairs) * 1000:.1f} ms, audit "
        f"{ratio:.2f} steps, {ratio / options.every:.2%} of the time at every {options.every} steps"
    )


if __name__ == "__main__":
    main()
