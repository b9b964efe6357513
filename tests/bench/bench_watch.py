"""The cost of ``telemetry.watch``: seconds of a watched step compared with a plain one, in pairs, on the same state and
batch.

    python tests/bench/bench_watch.py [RUN.YAML] [--every 10] [--pairs 7] [--steps 5] [--what gradients,activations]
    [--histograms]

It prints the share of a run's time that the watch takes: (watched - plain) / (every x plain). On a processor it uses
processor seconds, which other programs of the machine hardly change; on an accelerator the time of the steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.process_group import join
from halcyon.run.context import resolve_context
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon_api.spec.telemetry import WatchSpec


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path, default=Path("examples/local-llama.yaml"))
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--what", default=",".join(WatchSpec().what))
    parser.add_argument("--histograms", action="store_true")
    options = parser.parse_args()
    context = resolve_context(options.run, {}, checkpoint_root="file:///tmp/bench-watch")
    watch = WatchSpec.model_validate(
        {"everySteps": 1, "what": options.what.split(","), "histograms": options.histograms}
    )
    spec = context.run.spec.model_copy(
        update={"telemetry": context.run.spec.telemetry.model_copy(update={"watch": watch})}
    )
    join(None, 0, 1, context.topology.devices)
    program = build_program(spec, 259, build_mesh(context.mesh))
    settings = spec.trainer
    programs = [
        program.compile_step(settings.batch_size, settings.sequence_length, watched=each) for each in (False, True)
    ]
    shape = (program.microbatches, settings.batch_size // program.microbatches, settings.sequence_length)
    noise = np.random.default_rng(0)
    values: dict[str, Any] = {"weights": np.ones(shape, np.float32)}
    fields = program.objective.fields
    batch = {
        name: jax.device_put(
            values.get(name, noise.integers(0, 2 if "segment" in name else 256, shape).astype(dtype)),
            program.batch_sharding,
        )
        for name, dtype in fields.items()
    }
    control = jax.device_put(jnp.zeros(program.mesh.size, jnp.int32), program.control_sharding)
    states = [initial_state(program.build_state, program.template) for _ in programs]

    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter

    def seconds(which: int) -> float:
        began = clock()
        for _ in range(options.steps):
            states[which], metrics = programs[which](states[which], batch, control)
        jax.block_until_ready((states[which], metrics))
        return (clock() - began) / options.steps

    seconds(0), seconds(1)
    shares: list[float] = []
    for pair in range(options.pairs):
        plain, watched = seconds(0), seconds(1)
        shares.append((watched - plain) / (options.every * plain))
        print(
            f"pair {pair}: plain {1000 * plain:8.2f} ms   watched {1000 * watched:8.2f} ms   cost "
            f"{100 * shares[-1]:6.2f} %",
            flush=True,
        )
    print(
        f"cost of the watch every {options.every} steps, median of {options.pairs} pairs: "
        f"{100 * statistics.median(shares):.2f} %"
    )


if __name__ == "__main__":
    main()
