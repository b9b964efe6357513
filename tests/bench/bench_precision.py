"""The losses of a small Llama with narrow types, beside those of float32: the same data, the same order, the same first parameters.

Narrow products are computed with the numbers that hardware with them would compute, so this shows what they cost in loss, not their speed.

    python tests/bench/bench_precision.py [--steps 400] [--layers 4] [--hidden 128] [--length 128] [--batch 16] [--seeds 2] [--only WORD]
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
from pathlib import Path
from typing import Any

import jax
import numpy as np

from halcyon.parallel.mesh import build_mesh
from halcyon.training.program import build_program
from halcyon.training.state import initial_state
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec

CASES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 compute": {"compute": "bfloat16"},
    **{f"{kind} products": {"compute": "bfloat16", "products": kind} for kind in ("float8", "int8", "mxfp8", "nvfp4")},
    "float8 products, by tensor": {"compute": "bfloat16", "products": "float8", "narrowProducts": {"scales": "tensor"}},
    "int8 products, all three": {"compute": "bfloat16", "products": "int8", "narrowProducts": {"parameterGradients": True}},
    "bfloat16 parameters": {"compute": "bfloat16", "parameters": "bfloat16"},
    "bfloat16 parameters, stochastic": {"compute": "bfloat16", "parameters": "bfloat16", "rounding": "stochastic"},
    "bfloat16 moments": {"compute": "bfloat16", "moments": "bfloat16"},
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
    parser.add_argument("--only", default="", help="cases with this word in their name, beside float32")
    options = parser.parse_args()
    text = _text(options.steps * options.batch * (options.length + 1))
    losses: dict[str, list[float]] = {}
    for case, precision in CASES.items():
        if options.only not in case and case != "float32":
            continue
        losses[case] = [_mean_loss(options, precision, seed, text) for seed in range(options.seeds)]
        excess = statistics.mean(mine - plain for mine, plain in zip(losses[case], losses["float32"], strict=True))
        print(f"{case:34}{statistics.mean(losses[case]):9.4f} nats a byte, {excess:+.4f}", flush=True)


def _text(size: int) -> np.ndarray:
    """Bytes of the standard library's source, as tokens."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)[:size].astype(np.int32)


def _mean_loss(options: argparse.Namespace, precision: dict[str, Any], seed: int, text: np.ndarray) -> float:
    rows, length = options.batch, options.length
    kind, topology = _HARDWARE.get(precision.get("products", ""), ("cpu", "1x1"))
    sizes = {"layers": options.layers, "hiddenSize": options.hidden, "intermediateSize": 3 * options.hidden, "heads": options.hidden // 32}
    spec = TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": kind, "topology": topology},
            "model": {"llama": sizes},
            "data": {"sources": [{"name": "python", "stdlib": {}}]},
            "optimizer": {"learningRate": 0.002, "schedule": {"cosine": {"warmupSteps": 40}}, "adamw": {}},
            "trainer": {
                "steps": options.steps,
                "batchSize": rows,
                "sequenceLength": length,
                "seed": seed,
                "precision": precision,
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
