"""The losses of a small Llama with narrow types, beside those of float32: the same data, the same order, the same first
parameters.

Narrow products are computed with the numbers that hardware with them would compute, so this shows what they cost in
loss, not their speed. Each case is compared with the same update rule in float32, over the last steps of the same
seeds. `sd` is the standard deviation of the differences between seeds.

    python tests/bench/bench_precision.py [--steps 400] [--layers 4] [--hidden 128] [--length 128] [--batch 16] [--seeds
    2]
        [--only WORD ...]
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from halcyon.parallel.device_mesh import build_mesh
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        precision: ``trainer.precision``.
        optimizer: Rate and update rule.
        against: The case that its losses are compared with.
    """

    precision: dict[str, Any] = field(default_factory=dict[str, Any])
    optimizer: dict[str, Any] = field(default_factory=lambda: {"learningRate": 0.002, "adamw": {}})
    against: str = "float32"


RULES: dict[str, dict[str, Any]] = {
    "AdamW 0.95": {"learningRate": 0.002, "adamw": {"beta2": 0.95}},
    "AdamW 0.999": {"learningRate": 0.002, "adamw": {"beta2": 0.999}},
    "Lion 0.99": {"learningRate": 0.0004, "weightDecay": 0.5, "lion": {}},
    "Muon 0.95": {"learningRate": 0.002, "muon": {}},
}
"""Update rules with the slowest decay of their moments."""
STORED: dict[str, dict[str, Any]] = {
    "bfloat16 moments, stochastic": {"moments": "bfloat16", "momentsRounding": "stochastic"},
    "float8 moments": {"moments": "float8"},
}
CASES: dict[str, Case] = {
    "float32": Case(),
    "bfloat16 compute": Case({"compute": "bfloat16"}),
    **{
        f"{kind} products": Case({"compute": "bfloat16", "products": kind})
        for kind in ("float8", "int8", "mxfp8", "nvfp4")
    },
    "float8 products, by tensor": Case(
        {"compute": "bfloat16", "products": "float8", "narrowProducts": {"scales": "tensor"}}
    ),
    "int8 products, all three": Case(
        {"compute": "bfloat16", "products": "int8", "narrowProducts": {"parameterGradients": True}}
    ),
    "bfloat16 parameters": Case({"compute": "bfloat16", "parameters": "bfloat16"}),
    "bfloat16 parameters, stochastic": Case(
        {"compute": "bfloat16", "parameters": "bfloat16", "rounding": "stochastic"}
    ),
    "bfloat16 moments": Case({"compute": "bfloat16", "moments": "bfloat16"}),
    **{rule: Case({}, optimizer, rule) for rule, optimizer in RULES.items()},
    **{
        f"{rule}, {name}": Case(types, optimizer, rule)
        for rule, optimizer in RULES.items()
        for name, types in STORED.items()
    },
}
_HARDWARE = {"float8": ("v7x", "1x1x1"), "int8": ("v5e", "1x1"), "mxfp8": ("b200", "1x8"), "nvfp4": ("b200", "1x8")}
"""A type and topology that has the products."""
_TAIL = 50
"""The last steps, whose mean loss is reported."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[""], help="cases with one of these words in their name")
    options = parser.parse_args()
    text = _text(options.steps * options.batch * (options.length + 1))
    losses: dict[str, list[float]] = {}
    wanted = {name: case for name, case in CASES.items() if any(word in name for word in options.only)}
    for name in dict.fromkeys(place for each, case in wanted.items() for place in (case.against, each)):
        case = CASES[name]
        losses[name] = [_mean_loss(options, case, seed, text) for seed in range(options.seeds)]
        excess = [mine - plain for mine, plain in zip(losses[name], losses[case.against], strict=True)]
        spread = statistics.stdev(excess) if len(excess) > 1 else 0.0
        print(
            f"{name:42}{statistics.mean(losses[name]):9.4f} nats a byte, {statistics.mean(excess):+.4f}, sd "
            f"{spread:.4f}",
            flush=True,
        )


def _text(size: int) -> np.ndarray:
    """Bytes of the standard library's source, as tokens."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)[:size].astype(np.int32)


def _mean_loss(options: argparse.Namespace, case: Case, seed: int, text: np.ndarray) -> float:
    rows, length = options.batch, options.length
    kind, topology = _HARDWARE.get(case.precision.get("products", ""), ("cpu", "1x1"))
    sizes = {
        "numHiddenLayers": options.layers,
        "hiddenSize": options.hidden,
        "intermediateSize": 3 * options.hidden,
        "numAttentionHeads": options.hidden // 32,
    }
    spec = TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": kind, "topology": topology},
            "model": {"llama": sizes},
            "data": {"sources": [{"name": "python", "stdlib": {}}]},
            "optimizer": {"schedule": {"cosine": {"warmupSteps": 40}}, **case.optimizer},
            "trainer": {
                "steps": options.steps,
                "batchSize": rows,
                "sequenceLength": length,
                "seed": seed,
                "precision": case.precision,
            },
            "checkpoint": {"root": "file:///unused"},
        }
    )
    program = build_program(spec, 256, build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1), jax.devices()[:1]))
    state, step = initial_state(program.build_state, program.template), program.compile_step(rows, length)
    control = jax.device_put(np.zeros(1, np.int32), program.control_sharding)
    order = np.random.default_rng(seed).permutation(len(text) // (length + 1))
    sequences = text[: len(order) * (length + 1)].reshape(len(order), length + 1)
    found = []
    for number in range(options.steps):
        tokens = sequences[order[np.arange(number * rows, (number + 1) * rows) % len(order)]]
        ones = np.ones((rows, length))
        arrays = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": ones, "segments": 0 * ones}
        batch = {
            name: jax.device_put(arrays[name].astype(dtype)[None], program.batch_sharding)
            for name, dtype in program.objective.fields.items()
        }
        state, metrics = step(state, batch, control)
        found.append(float(metrics.loss))
    return statistics.mean(found[-_TAIL:])


if __name__ == "__main__":
    main()
