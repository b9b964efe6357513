"""Every update rule on the demo's model and data: the held-out loss after equal steps, beside AdamW's, and the time of
Muon's step.

Model, tokenizer, data and schedule are those of examples/stdlib-llama.yaml; each rule has its recommended settings,
those of docs/reference/optimizers.md (`tests.trainer.optim.documented`). All rules see the same batches and begin with
the same parameters. A rule whose loss is more than 0.05 above AdamW's is marked. `--seeds` is the number of trainings,
each with its own first parameters and order of the data. The losses are means over them, and `sd` is the standard
deviation of the differences from AdamW. With one seed, rounding alone changes the loss of such a short training by
0.05.

The gradients are one compiled program for all rules. Each rule has a program for its update, which takes the rate as an
argument, so further rates cost no compilation. `step` is the processor time of both programs as a multiple of AdamW's.
`--pairs` compares whole steps, compiled as in a run: the steps of AdamW and of the other rule run in turns on one
pinned processor, so that a busy machine slows both equally.

    python tests/bench/bench_optimizers.py [--rules muon soap ...] [--steps 150] [--seeds 1] [--factors 0.5 1 2]
    [--pairs muon]
        [--rounds 15] [--layers 4] [--hidden 128] [--length 256] [--batch 8] [--cache FOLDER]

`--factors` multiplies the rate of each rule but the first AdamW. `--cache` keeps the tokens for the next time.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import yaml

sys.path.append(str(Path(__file__).parents[2]))
from step_turns import Seconds, in_turns, seconds, start_on_one_processor

from halcyon.data.dataset import Dataset
from halcyon.optim import build_optimizer, learning_rate
from halcyon.optim.registry import RULES, averages
from halcyon.optim.rounding import add_updates
from halcyon.parallel.device_mesh import build_mesh
from halcyon.step.compilation import compiler_options
from halcyon.step.curvature import gauss_newton
from halcyon.step.program import Program, build_program
from halcyon.step.state import initial_state
from halcyon_api.reading import parse_run
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.optim.documented import RECOMMENDED
from tests.trainer.support.datasets import open_dataset

DEMO = Path(__file__).parents[2] / "examples" / "stdlib-llama.yaml"
HELD_OUT = 16
"""Batches of held-out text."""
WORSE = 0.05
"""A rule may be this much worse than AdamW, in nats a token."""

Batch = Mapping[str, jax.Array]


class Trained(NamedTuple):
    """What came of a training."""

    losses: tuple[float, ...]
    """Nats a token on held-out text, one for each seed."""
    step: float
    """Processor seconds of a step: the median."""
    size: int
    """Bytes of the optimizer state."""


class Start(NamedTuple):
    """What a seed decides."""

    model: Any
    batches: list[Batch]


class Laboratory:
    """The parts that all rules share: data, first parameters, and the programs of gradients and of the held-out loss.

    Args:
        options: Sizes and number of steps.
        folder: Keeps the tokens.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        spec = self.spec("adamw")
        dataset = open_dataset(spec)
        self._vocabulary = dataset.tokenizer.vocab_size
        self._program = program = self.program("adamw")
        self._fields = tuple(program.objective.fields)

        def on_device(dataset: Dataset, rows: Any) -> Batch:
            examples = dataset.examples(rows)
            return {
                name: jax.device_put(np.asarray(getattr(examples, name))[None], program.batch_sharding)
                for name in self._fields
            }

        def start(seed: int) -> Start:
            ordered = open_dataset(self.spec("adamw", seed))
            model = initial_state(self.program("adamw", seed).build_state, program.template).model
            return Start(model, [on_device(ordered, ordered.train_rows(number)) for number in range(options.steps)])

        held_out = [
            on_device(dataset, rows)
            for rows in dataset.validation_batches(HELD_OUT, options.batch)
            if len(rows) == options.batch
        ]
        self.starts = [start(seed) for seed in range(options.seeds)]
        with program.tracing():
            arguments = self.starts[0].model, self.starts[0].batches[0]
            self._gradients = (
                jax.jit(jax.grad(self._loss)).lower(*arguments).compile(compiler_options=compiler_options())
            )
            evaluate = jax.jit(self._loss).lower(*arguments).compile(compiler_options=compiler_options())
        self._held_out: Callable[[Any], float] = lambda model: statistics.mean(
            float(evaluate(model, batch)) for batch in held_out
        )

    def spec(self, rule: str, seed: int = 0) -> TrainingRunSpec:
        """The demo's run with another rule and seed, on one device."""
        options, run = self._options, yaml.safe_load(DEMO.read_text(encoding="utf-8"))
        spec, demo = run["spec"], run["spec"]["optimizer"]
        warmup = demo["schedule"]["cosine"]["warmupSteps"] * options.steps // spec["trainer"]["steps"]
        spec["accelerator"] = {"type": "cpu"}
        spec["model"]["llama"] |= {
            "numHiddenLayers": options.layers,
            "hiddenSize": options.hidden,
            "intermediateSize": options.hidden * 11 // 4,
        }
        spec["data"]["cache"] = {"root": f"file://{self._folder}/tokens"}
        spec["optimizer"] = RECOMMENDED.of(rule).optimizer(
            rule, demo["learningRate"], 0.1, {"cosine": {"warmupSteps": warmup}}
        )
        spec["trainer"] |= {
            "steps": options.steps,
            "batchSize": options.batch,
            "sequenceLength": options.length,
            "seed": seed,
        }
        spec["trainer"]["evaluation"] = {"everySteps": 0}
        spec["checkpoint"] = {"root": f"file://{self._folder}/unused"}
        return parse_run(run).spec

    def program(self, rule: str, seed: int = 0) -> Program:
        """The program of a run with this rule and seed."""
        mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1), jax.devices()[:1])
        return build_program(self.spec(rule, seed), self._vocabulary, mesh)

    def trainer(self, rule: str) -> Callable[[float], Trained]:
        """Compile the update of a rule. The result trains with a factor of its rate."""
        settings, first = self.spec(rule).optimizer, self.starts[0].model
        optimizer = build_optimizer(settings, first)
        rates = np.asarray(jax.vmap(learning_rate(settings, self._options.steps))(jnp.arange(self._options.steps)))

        def update(
            model: Any, state: Any, gradient: Any, batch: Batch, rate: jax.Array, step: jax.Array
        ) -> tuple[Any, Any]:
            key = jax.random.fold_in(jax.random.key(0), step)
            objective: Any = self._program.objective
            curvature = functools.partial(gauss_newton, objective, self._sampled_gradient(model), model, batch, key)
            further = {"curvature": curvature} if settings.sophia is not None else {}
            changes, state = optimizer.update(gradient, state, model, learning_rate=rate, step=step, key=key, **further)
            return add_updates(model, changes), state

        begin = jax.jit(optimizer.init)
        shapes = first, begin(first), first, self.starts[0].batches[0], jnp.float32(0), jnp.int32(0)
        with self._program.tracing():
            compiled = (
                jax.jit(update, donate_argnums=(0, 1)).lower(*shapes).compile(compiler_options=compiler_options())
            )
        mean = averages(settings, first)
        taken: list[float] = []

        def trained(start: Start, factor: float) -> tuple[float, int]:
            model, state = jax.tree.map(jnp.copy, start.model), begin(start.model)
            for number, batch in enumerate(start.batches):
                began = time.process_time()
                gradient = self._gradients(model, batch)
                model, state = compiled(
                    model, state, gradient, batch, jnp.float32(factor * rates[number]), jnp.int32(number)
                )
                jax.block_until_ready(model)
                taken.append(time.process_time() - began)
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
            # The rules' means read the state of a run, a pair with that of the clipping.
            return self._held_out(model if mean is None else jax.jit(mean)(state, model)), size

        def train(factor: float) -> Trained:
            taken.clear()
            found = [trained(start, factor) for start in self.starts]
            return Trained(tuple(loss for loss, _ in found), statistics.median(taken), found[0][1])

        return train

    def turn(self, rule: str) -> Callable[[], Mapping[str, Seconds]]:
        """A whole step of a run with this rule, compiled as in a run."""
        program = self.program(rule)
        step = program.compile_step(self._options.batch, self._options.length)
        control = jax.device_put(np.zeros(1, np.int32), program.control_sharding)
        state = [initial_state(program.build_state, program.template)]

        def run() -> None:
            state[0], metrics = step(state[0], self.starts[0].batches[0], control)
            jax.block_until_ready((state[0], metrics))

        return lambda: {"step": seconds(run)}

    def _loss(self, model: Any, batch: Batch) -> jax.Array:
        sums = self._program.objective(model, jax.tree.map(lambda rows: rows[0], batch), None, jax.random.key(0))
        return sums.loss / jnp.maximum(sums.weight, 1.0)

    def _sampled_gradient(self, model: Any) -> Callable[[Batch], Any]:
        """The gradient of the summed loss of a batch."""

        def total(model: Any, batch: Batch) -> jax.Array:
            return self._program.objective(
                model, jax.tree.map(lambda rows: rows[0], batch), None, jax.random.key(0)
            ).loss

        return lambda batch: jax.grad(total)(model, batch)


def print_losses(laboratory: Laboratory, options: argparse.Namespace) -> None:
    """Train with every rule."""
    print(
        f"{'rule':14}{'rate x':>8}{'nats a token':>14}{'to AdamW':>10}{'sd':>8}{'step':>7}{'state MiB':>11}", flush=True
    )
    plain: Trained | None = None
    for rule in ["adamw", *(rule for rule in options.rules if rule != "adamw")]:
        train = laboratory.trainer(rule)
        for factor in options.factors if plain is not None or "adamw" in options.rules else [1.0]:
            found = train(factor)
            plain = plain or found
            differences = [ours - adamw for ours, adamw in zip(found.losses, plain.losses, strict=True)]
            difference, spread = (
                statistics.mean(differences),
                statistics.stdev(differences) if len(differences) > 1 else 0.0,
            )
            mark = "  worse" if difference > WORSE else ""
            print(
                f"{rule:14}{factor:8g}{statistics.mean(found.losses):14.4f}{difference:+10.4f}{spread:8.3f}{found.step / plain.step:7.2f}{found.size / 2**20:11.2f}{mark}",
                flush=True,
            )


def print_pairs(laboratory: Laboratory, options: argparse.Namespace) -> None:
    """Compare whole steps with AdamW's."""
    plain = laboratory.turn("adamw")
    for rule in options.pairs:
        found = in_turns({"adamw": plain, rule: laboratory.turn(rule)}, options.rounds)
        theirs, ours = (statistics.median(taken.processor for taken in found[name]) for name in ("adamw", rule))
        print(
            f"a step of {rule}: {1000 * ours:.0f} ms, of adamw: {1000 * theirs:.0f} ms, {ours / theirs:.2f} times",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=list(RULES))
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0])
    parser.add_argument("--pairs", nargs="*", default=["muon"], choices=list(RULES))
    for name, default in (
        ("steps", 150),
        ("seeds", 1),
        ("rounds", 15),
        ("layers", 4),
        ("hidden", 128),
        ("length", 256),
        ("batch", 8),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    start_on_one_processor()
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(options, (options.cache or Path(folder)).resolve())
        if options.rules:
            print_losses(laboratory, options)
        if options.pairs:
            print_pairs(laboratory, options)


if __name__ == "__main__":
    main()
