"""Every update rule beside AdamW: the time of a step, and the held-out loss after equal steps, with the recommended settings of each rule.

The recommended settings are those of docs/reference/optimizers.md (`tests.trainer.optim.documented`). A rule whose loss is more than 0.05
above AdamW's is marked. The model is the demo's, and so is the text (the standard library's source), as bytes. The steps of two rules run
in turns on one pinned processor, so that a busy machine slows both equally: compare the ratios.

    python tests/bench/bench_optimizers.py [--rules muon soap ...] [--steps 250] [--rounds 15] [--layers 4] [--hidden 128] [--length 256]
        [--batch 8] [--rate 0.003]
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from step_turns import Seconds, in_turns, seconds, start_as_in_image

from halcyon.optim.registry import RULES
from halcyon.parallel.mesh import build_mesh
from halcyon.training.compilation import compiler_options
from halcyon.training.program import Program, build_program
from halcyon.training.state import initial_state
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import parse_run
from tests.trainer.optim.documented import RECOMMENDED

BYTES = 256
HELD_OUT = 16
"""Batches of the held-out text."""
WORSE = 0.05
"""A rule may be this much worse than AdamW, in nats a byte."""


class Run:
    """A run with one update rule.

    Args:
        rule: Its name in documents.
        options: Sizes and rate.
        text: The tokens of all sequences [sequence, position].
    """

    def __init__(self, rule: str, options: argparse.Namespace, text: np.ndarray) -> None:
        self._program, self._text, self._rows = _program(rule, options), text, options.batch
        self.state = jax.block_until_ready(initial_state(self._program.build_state, self._program.template))
        self._step = self._program.compile_step(options.batch, options.length)
        self._control = jax.device_put(np.zeros(1, np.int32), self._program.control_sharding)
        self._order = np.random.default_rng(0).permutation(len(text) - HELD_OUT * self._rows)
        self._done = 0

    def train(self, steps: int) -> None:
        """Do steps."""
        for _ in range(steps):
            self.step()

    def step(self) -> dict[str, Seconds]:
        """One step, with its time."""
        first = self._done * self._rows
        batch = self._batch(self._order[np.arange(first, first + self._rows) % len(self._order)])
        self._done += 1

        def run() -> None:
            self.state, metrics = self._step(self.state, batch, self._control)
            jax.block_until_ready(metrics)

        return {"step": seconds(run)}

    def held_out(self) -> float:
        """Nats a byte on text that the run did not read."""
        program = self._program

        def loss(model: Any, batch: Any) -> jax.Array:
            sums = program.objective(model, jax.tree.map(lambda rows: rows[0], batch), None, jax.random.key(0))
            return sums.loss / jnp.maximum(sums.weight, 1.0)

        model = program.evaluated(self.state)
        batches = [self._batch(np.arange(-number * self._rows, (1 - number) * self._rows)) for number in range(2, HELD_OUT + 1)]
        with program.tracing():
            evaluate = jax.jit(loss).lower(model, batches[0]).compile(compiler_options=compiler_options())
        return statistics.mean(float(evaluate(model, batch)) for batch in batches)

    def _batch(self, rows: np.ndarray) -> dict[str, jax.Array]:
        tokens = self._text[rows]
        ones = np.ones((len(rows), tokens.shape[1] - 1))
        arrays = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": ones, "segments": 0 * ones}
        fields = self._program.objective.fields.items()
        return {name: jax.device_put(arrays[name].astype(dtype)[None], self._program.batch_sharding) for name, dtype in fields}


def _program(rule: str, options: argparse.Namespace) -> Program:
    schedule = {"cosine": {"warmupSteps": options.steps // 8}}
    run = parse_run(
        {
            "apiVersion": "halcyon.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": "optimizers"},
            "spec": {
                "accelerator": {"type": "cpu"},
                "model": {
                    "llama": {
                        "layers": options.layers,
                        "hiddenSize": options.hidden,
                        "intermediateSize": options.hidden * 11 // 4,
                        "heads": 4,
                        "kvHeads": 2,
                    }
                },
                "data": {"sources": [{"name": "python", "stdlib": {}}]},
                "optimizer": RECOMMENDED.of(rule).optimizer(rule, options.rate, 0.1, schedule),
                "trainer": {"steps": options.steps + options.rounds + 1, "batchSize": options.batch, "sequenceLength": options.length},
                "checkpoint": {"root": "file:///unused"},
            },
        }
    )
    return build_program(run.spec, BYTES, build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1), jax.devices()[:1]))


def _text(length: int, sequences: int) -> np.ndarray:
    """Bytes of the standard library's source, as tokens [sequence, position]."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8).astype(np.int32)
    found = min(sequences, len(text) // (length + 1))
    return text[: found * (length + 1)].reshape(found, length + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="*", default=[name for name in RULES if name != "adamw"], choices=list(RULES))
    defaults = (("steps", 250), ("rounds", 15), ("layers", 4), ("hidden", 128), ("length", 256), ("batch", 8))
    for name, default in defaults:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=0.003)
    options = parser.parse_args()
    start_as_in_image()
    text = _text(options.length, (options.steps + HELD_OUT) * options.batch)
    plain = Run("adamw", options, text)
    plain.train(options.steps)
    reference = plain.held_out()
    print(f"{'rule':14}{'nats a byte':>12}{'to AdamW':>10}{'step / AdamW':>14}{'state MiB':>11}", flush=True)
    print(f"{'adamw':14}{reference:12.4f}", flush=True)
    for rule in options.rules:
        run = Run(rule, options, text)
        run.train(options.steps)
        loss = run.held_out()
        found = in_turns({"adamw": plain.step, rule: run.step}, options.rounds)
        theirs, ours = (statistics.median(taken.processor for taken in found[name]) for name in ("adamw", rule))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.state.optimizer_state)) / 2**20
        mark = "  worse" if loss - reference > WORSE else ""
        print(f"{rule:14}{loss:12.4f}{loss - reference:+10.4f}{ours / theirs:14.2f}{size:11.1f}{mark}", flush=True)


if __name__ == "__main__":
    main()
