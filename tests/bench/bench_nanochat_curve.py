"""A paired training curve: the same tiny nanochat, trained by the original and by Halcyon, and the noise between seeds
beside it.

Both sides begin with the same weights, which the original draws, and take the same batches in the same order: Python
source and its documentation, tokenized by Halcyon. Both compute in float32. The original trains with its class GPT, its
optimizer MuonAdamW and the schedules of its base training. Halcyon trains with the compiled step of a run, and with the
document of `halcyon dial`: the rule `muonAdamw`, the groups and the schedules. The decay of Halcyon's rate begins one
step earlier (docs/guides/nanochat.md). Rates and weight decay are those of the dial's reference model, 12 blocks and
2^19 tokens a step; `--rates dial` scales them to this model and this batch.

The table has the mean training loss of each window of steps, and the held-out loss after the last step. nanochat,
Halcyon and their difference are means over the seeds of the first weights. Two columns tell how large a difference may
be by chance:

- ``last bits``: the distance between two Halcyon runs whose first weights differ in their last bits. Rounding differs
  between two implementations, so their losses differ at least as two such runs do.
- ``noise``: the mean distance between two Halcyon runs with different seeds.

Rounding differences grow with the steps. So a second comparison does not let them grow: each of the first steps of
Halcyon begins with the parameters that the original has then, and its update is compared with that of the original.

    python tests/bench/bench_nanochat_curve.py --nanochat CHECKOUT [--python PYTHON] [--steps 300] [--seeds 4] [--depth
    3] [--width 128]
        [--heads 4] [--length 128] [--batch 8] [--vocabulary 1024] [--window 30] [--kept 60] [--stop N] [--rates dial]
        [--cache FOLDER]

CHECKOUT is a checkout of karpathy/nanochat, PYTHON an interpreter with torch and filelock. `--cache` keeps the tokens
for the next time.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

sys.path.append(str(Path(__file__).parents[2]))
from step_turns import Peer

from halcyon.commands.dial import Choices, Dial, adamw_groups, dial, document
from halcyon.data.dataset import Dataset
from halcyon.parallel.device_mesh import build_mesh
from halcyon.step.compilation import compiler_options
from halcyon.step.program import build_program
from halcyon.step.state import TrainState, completed_state
from halcyon_api.reading import parse_run
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE
from halcyon_api.training_run import TrainingRunSpec
from tests.arrays import load_arrays
from tests.trainer.models.nanochat.golden import model_from
from tests.trainer.support.datasets import open_dataset

CHILD = Path(__file__).with_name("nanochat_curve_child.py")
HELD_OUT = 32
"""Batches of held-out text."""
FIRST = (5, 10, 20)
"""Numbers of first steps whose largest difference is printed."""

Arrays = dict[str, np.ndarray]


class Curve(NamedTuple):
    """The losses of a training, nats a token."""

    losses: np.ndarray
    """Of each step: [steps]."""
    held_out: float
    """On held-out text, after the last step."""


def dialled(options: argparse.Namespace) -> Dial:
    """The settings by the laws of the dial, for another width than the depth gives."""
    batch = options.batch * options.length
    choices = Choices(
        options.depth,
        options.length,
        options.vocabulary,
        options.width // options.heads,
        batch_tokens=batch,
        steps=options.steps,
    )
    found = dial(choices)
    if options.rates == "reference":
        found = dataclasses.replace(
            found, rate_factor=1.0, learning_rate=choices.matrix_rate, weight_decay=choices.weight_decay
        )
    embedding, head, scalar = (
        found.rate_factor * rate for rate in (choices.embedding_rate, choices.head_rate, choices.scalar_rate)
    )
    return dataclasses.replace(
        found,
        model=found.model.model_copy(update={"hidden_size": options.width}),
        width=options.width,
        heads=options.heads,
        groups=adamw_groups(options.width, found.learning_rate, embedding=embedding, head=head, scalar=scalar),
    )


def run_of(found: Dial, folder: Path) -> TrainingRunSpec:
    """The run of the dial's document, in float32, where attention crosses documents as in the original."""
    run = document(found)
    spec = run["spec"]
    spec["data"] |= {"attendAcrossDocuments": True, "cache": {"root": f"file://{folder}/tokens"}}
    spec["checkpoint"]["root"] = f"file://{folder}/root"
    spec["optimizer"]["muonAdamw"] = {"iterationType": "float32"}
    spec["trainer"] |= {"precision": {"compute": "float32"}, "evaluation": {"everySteps": 0}}
    return parse_run(run).spec


def settings_of(found: Dial, options: argparse.Namespace) -> dict[str, Any]:
    """The same settings for the original: arguments of its GPTConfig, of ``setup_optimizer`` and of its schedules."""
    choices, factor = found.choices, found.rate_factor
    return {
        "sizes": {
            "sequence_len": options.length,
            "vocab_size": options.vocabulary,
            "n_layer": options.depth,
            "n_head": options.heads,
            "n_kv_head": options.heads,
            "n_embd": options.width,
        },
        "optimizer": {
            "unembedding_lr": choices.head_rate * factor,
            "embedding_lr": choices.embedding_rate * factor,
            "matrix_lr": found.learning_rate,
            "scalar_lr": choices.scalar_rate * factor,
            "weight_decay": found.weight_decay,
        },
        "schedules": {
            "steps": found.steps,
            "warmup": found.warmup_steps,
            "warmdown": choices.warmdown,
            "final": choices.final_rate,
        },
    }


def batches_of(dataset: Dataset, options: argparse.Namespace) -> tuple[list[Arrays], list[Arrays]]:
    """The batches of the training, and held-out ones."""

    def arrays(rows: Any) -> Arrays:
        examples = dataset.examples(rows)
        assert np.isin(examples.weights, (0, 1)).all(), "the original has no weights of targets"
        return {name: getattr(examples, name) for name in ("tokens", "targets", "weights")}

    held_out = dataset.validation_batches(HELD_OUT, options.batch)
    return (
        [arrays(dataset.train_rows(step)) for step in range(options.stop or options.steps)],
        [arrays(rows) for rows in held_out if len(rows) == options.batch],
    )


def for_original(batches: Sequence[Arrays], prefix: str = "") -> Arrays:
    """The batches as the original takes them: [batches, batch, position]. A target that does not count is -1."""
    targets = [np.where(batch["weights"] > 0, batch["targets"], -1) for batch in batches]
    return {f"{prefix}tokens": np.stack([batch["tokens"] for batch in batches]), f"{prefix}targets": np.stack(targets)}


class Trainer:
    """The compiled step of a run, from weights of the original.

    Args:
        spec: The run.
        vocabulary: Tokens of the tokenizer.
        batches: The batches of the training.
        held_out: Held-out batches.
    """

    def __init__(
        self, spec: TrainingRunSpec, vocabulary: int, batches: Sequence[Arrays], held_out: Sequence[Arrays]
    ) -> None:
        mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1), jax.devices()[:1])
        self._program = program = build_program(spec, vocabulary, mesh)
        self._shapes: Any = program.template.model
        self._head_size = spec.model.nanochat.head_dim if spec.model.nanochat is not None else 0
        self._batches, self._held_out = ([self._on_device(batch) for batch in some] for some in (batches, held_out))
        self._control = jax.device_put(np.zeros(1, np.int32), program.control_sharding)
        self._step = program.compile_step(spec.trainer.batch_size, spec.trainer.sequence_length)

        def sums(model: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
            found = program.objective(model, jax.tree.map(lambda rows: rows[0], batch), None, jax.random.key(0))
            return found.loss, found.weight

        with program.tracing():
            self._sums = (
                jax.jit(sums).lower(self._shapes, self._batches[0]).compile(compiler_options=compiler_options())
            )

    def train(self, weights: Arrays) -> Curve:
        """All steps, and the held-out loss."""
        state, losses = self._begin(weights), list[float]()
        for batch in self._batches:
            state, metrics = self._step(state, batch, self._control)
            losses.append(float(metrics.loss))
        loss, weight = np.sum([jax.device_get(self._sums(state.model, batch)) for batch in self._held_out], axis=0)
        return Curve(np.asarray(losses), float(loss / weight))

    def updates(self, weights: Sequence[Arrays]) -> list[float]:
        """The distance of each update from that of the original, as a part of its norm. Each begins with the original's
        parameters.

        Args:
            weights: Those of the original before the first step, and after each step.
        """
        state, found = self._begin(weights[0]), list[float]()
        for batch, before, after in zip(self._batches, weights, weights[1:], strict=False):
            state, _ = self._step(dataclasses.replace(state, model=self._placed(before)), batch, self._control)
            ours, first, last = (_leaves(model) for model in (state.model, self._placed(before), self._placed(after)))
            distance = sum(float(np.square(one - other).sum()) for one, other in zip(ours, last, strict=True))
            norm = sum(float(np.square(one - other).sum()) for one, other in zip(last, first, strict=True))
            found.append((distance / norm) ** 0.5)
        return found

    def _begin(self, weights: Arrays) -> TrainState:
        return completed_state(self._program.complete_state, self._program.template, self._placed(weights))

    def _placed(self, weights: Arrays) -> Any:
        return jax.device_put(
            model_from(weights, self._shapes, self._head_size), jax.tree.map(lambda leaf: leaf.sharding, self._shapes)
        )

    def _on_device(self, batch: Arrays) -> dict[str, jax.Array]:
        fields = self._program.objective.fields.items()
        return {
            name: jax.device_put(batch[name].astype(dtype)[None], self._program.batch_sharding)
            for name, dtype in fields
        }


def _leaves(model: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(model)]


def noise(values: Sequence[float]) -> float:
    """The mean distance between two of the values."""
    return statistics.mean(abs(one - other) for one, other in itertools.combinations(values, 2))


def table(theirs: Sequence[Curve], ours: Sequence[Curve], moved: Curve, window: int) -> str:
    """A line for each window of steps, and one for the held-out loss.

    Args:
        theirs: The original, from the first weights of each seed.
        ours: Halcyon, from the same weights.
        moved: Halcyon, from the weights of the first seed with other last bits.
        window: Steps of a line.
    """
    lines = [f"{'steps':>12}{'nanochat':>11}{'Halcyon':>11}{'difference':>13}{'last bits':>12}{'noise':>9}"]

    def add(name: str, of: Callable[[Curve], float]) -> None:
        original, own = ([of(one) for one in curves] for curves in (theirs, ours))
        means = statistics.mean(original), statistics.mean(own)
        rounding = abs(of(moved) - own[0])
        lines.append(
            f"{name:>12}{means[0]:11.5f}{means[1]:11.5f}{means[1] - means[0]:+13.6f}{rounding:12.6f}{noise(own):9.4f}"
        )

    steps = len(moved.losses)
    for begin in range(0, steps, window):
        part = slice(begin, min(begin + window, steps))
        add(f"{begin + 1} to {part.stop}", lambda curve, part=part: float(curve.losses[part].mean()))
    add("held out", lambda curve: curve.held_out)
    return "\n".join(lines)


def read(path: Path) -> Arrays:
    return load_arrays(path)


def growth(theirs: Sequence[Curve], ours: Sequence[Curve]) -> str:
    """The largest differences of the same step and seed in the first steps: rounding differences grow."""
    distances = [np.abs(own.losses - original.losses) for original, own in zip(theirs, ours, strict=True)]
    return ", ".join(f"{max(one[:steps].max() for one in distances):.1e} in {steps} steps" for steps in FIRST)


def with_other_last_bits(weights: Arrays) -> Arrays:
    """Each weight that is not 0 becomes the next larger float32 number."""
    return {
        name: np.where(array == 0, array, np.nextafter(array, np.float32(np.inf))) for name, array in weights.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch")
    for name, default in (
        ("steps", 300),
        ("seeds", 4),
        ("depth", 3),
        ("width", 128),
        ("heads", 4),
        ("length", 128),
        ("batch", 8),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("vocabulary", 1024), ("window", 30), ("kept", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--stop", type=int, help="steps after which all runs stop; the schedules stay those of --steps")
    parser.add_argument("--rates", default="reference", choices=["reference", "dial"])
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    if options.nanochat is None:
        print(
            "not compared: give a checkout of karpathy/nanochat with --nanochat, and an interpreter with torch with "
            "--python"
        )
        return
    if options.seeds < 2:
        parser.error("the noise needs at least two seeds")
    if options.vocabulary % VOCABULARY_MULTIPLE:
        parser.error(
            f"give a vocabulary that is a multiple of {VOCABULARY_MULTIPLE}: this bench compares models without padding"
        )
    jax.config.update("jax_platforms", "cpu")
    found, seeds = dialled(options), range(options.seeds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = run_of(found, (options.cache or folder).resolve())
        dataset = open_dataset(spec)
        batches, held_out = batches_of(dataset, options)
        batch_arrays: Any = for_original(batches) | for_original(held_out, "held_out_")
        np.savez(folder / "batches.npz", **batch_arrays)
        (folder / "settings.json").write_text(json.dumps(settings_of(found, options)))
        variables = {"NANOCHAT_DTYPE": "float32", "TORCHDYNAMO_DISABLE": "1"}
        with Peer(options.python, CHILD, (options.nanochat, folder), variables) as peer:
            print(f"torch {peer.facts['torch']}, JAX {jax.__version__}", flush=True)
            for seed in seeds:
                peer.ask(f"weights {seed}")
            answers = [peer.ask(f"train {seed} {0 if seed else options.kept}") for seed in seeds]
        theirs = [Curve(np.asarray(answer["losses"]), answer["held_out"]) for answer in answers]
        first = [read(folder / f"weights-{seed}.npz") for seed in seeds]
        trainer = Trainer(spec, dataset.tokenizer.vocab_size, batches, held_out)
        ours = [trainer.train(weights) for weights in first]
        moved = trainer.train(with_other_last_bits(first[0]))
        kept = min(options.kept, len(batches))
        updates = trainer.updates([first[0], *(read(folder / f"after-{step + 1}.npz") for step in range(kept))])
    print(table(theirs, ours, moved, options.window))
    for name, curves in (("nanochat", theirs), ("Halcyon", ours)):
        print(f"{name}, held out, by seed: {', '.join(f'{one.held_out:.4f}' for one in curves)}")
    print("largest difference of a step's loss:", growth(theirs, ours))
    print(
        f"updates of {kept} steps from the same parameters: they differ by {statistics.median(updates):.1e} of their "
        f"norm (median), {max(updates):.1e} at most, in step {int(np.argmax(updates)) + 1}"
    )
    difference = statistics.mean(one.held_out for one in ours) - statistics.mean(one.held_out for one in theirs)
    between = noise([one.held_out for one in ours])
    verdict = "within" if abs(difference) <= between else "not within"
    print(
        f"The end difference, {difference:+.4f} nats a token of held-out text, is {verdict} the noise of {between:.4f} "
        "between seeds."
    )


if __name__ == "__main__":
    main()
