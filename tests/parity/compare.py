"""Compares models of random configurations with transformers: see `make parity`.

Reads the folders of `tests.parity.draw` as an import reads them, computes logits, loss and the gradient of every
weight, and writes each model again as an export does, into ``exported``. The truth is what transformers computes in
float64. Some draws amplify rounding: there, transformers itself has a large error in float32, and so may we.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import numpy as np
from haliax import NamedArray
from safetensors.numpy import save_file

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models import Inputs
from halcyon.step.objectives.next_token import next_token_sums
from halcyon.weights.folder import ModelFolder, model_shapes, read_config
from halcyon.weights.reading import read_arrays
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.arrays import load_arrays
from tests.parity.errors import errors

TOLERANCE = 1e-4
"""Largest error, as a part of the largest value, where transformers in float32 has a smaller one."""
ROUNDINGS = 4
"""Otherwise: largest error, as a multiple of the largest error of transformers in float32."""


def named(array: np.ndarray) -> NamedArray:
    """The array with the axis names batch and position."""
    return hax.named(array, ("batch", "position"))


def differences(folder: Path) -> dict[str, float]:
    """The largest error of logits, loss and gradients, each as a part of the largest value. Writes the model again."""
    expected = load_arrays(folder / "expected.npz")
    store = Store(CheckpointSpec(root=f"file://{folder.resolve()}"))
    config = read_config(store)
    shapes = model_shapes(config.spec, config.tokens, expected["tokens"].shape[1])
    files = ModelFolder(store, config, shapes, np.dtype(np.float32))
    model = read_arrays(files.read, shapes, {path: leaf.dtype for path, leaf in files.layout.leaves.items()})
    tokens, targets, segments = (named(expected[part]) for part in ("tokens", "targets", "segments"))
    counted = expected["segments"] > 0
    present = {name.removeprefix("gradient ") for name in expected if name.startswith("gradient ")}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def computed(model: Any) -> Any:
        inputs, weights = (
            Inputs(tokens, segments=segments),
            hax.named(counted.astype(np.float32), ("batch", "position")),
        )
        loss = jax.value_and_grad(lambda model: next_token_sums(model, inputs, targets, weights).loss)
        return model.logits(model(inputs).features).array, loss(model)

    logits, (loss, gradient) = computed(model)
    own = in_file(files, gradient)
    assert present <= own.keys(), present - own.keys()
    export(folder / "exported", files, model)
    found = {
        "logits": np.asarray(logits),
        "loss": np.asarray(loss),
        **{f"gradient {name}": array for name, array in own.items()},
    }
    return errors(found, expected)


def tolerance(folder: Path) -> float:
    """The largest error that is allowed for a folder."""
    return max(TOLERANCE, ROUNDINGS * float(load_arrays(folder / "expected.npz")["rounding"]))


def in_file(files: ModelFolder, tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree like the model by the names of the file."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, NamedArray))
    arrays = {path: np.asarray(leaf.array) for path, leaf in zip(files.layout.leaves, leaves, strict=True)}
    return {
        name: tensor.values(lambda path, region: arrays[path][region]) for name, tensor in files.layout.tensors.items()
    }


def export(folder: Path, files: ModelFolder, model: Any) -> None:
    """Write a model as an export does."""
    folder.mkdir(exist_ok=True)
    config = files.config
    save_file(
        {name: np.ascontiguousarray(array) for name, array in in_file(files, model).items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    written = {
        "architectures": [config.form.architectures[0]],
        "model_type": config.form.model_type,
        "vocab_size": config.tokens,
        **config.form.write(config.spec, config.positions),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(written, indent=2))


def main() -> int:
    """Compare the folders, and print each that differs.

    Fails too if a whole family was refused, or there is no model.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    failed = refused = 0
    compared: Counter[str] = Counter()
    folders = sorted(path.parent for folder in parser.parse_args().folders for path in folder.rglob("expected.npz"))
    for folder in folders:
        family = folder.name.rpartition("-")[0]
        compared[family] += 0
        try:
            found = differences(folder)
        except BadConfiguration as refusal:
            refused += 1
            sys.stdout.write(f"{folder.name}: refused: {refusal}\n")
            continue
        except Exception as error:
            found = {f"{type(error).__name__}: {error}": float("inf")}
        compared[family] += 1
        allowed = tolerance(folder)
        wrong = {name: error for name, error in found.items() if not error <= allowed}
        failed += bool(wrong)
        if wrong:
            shown = ", ".join(f"{name} {error:.1e}" for name, error in list(wrong.items())[:4])
            sys.stdout.write(
                f"{folder.name}: differs in {len(wrong)} of {len(found)}: {shown}; {allowed:.1e} is allowed\n"
            )
        else:
            sys.stdout.write(f"{folder.name}: at most {max(found.values()):.1e} of {allowed:.1e}\n")
        sys.stdout.flush()
        jax.clear_caches()
    sys.stdout.write(
        f"{len(folders) - failed - refused} of {len(folders)} models have the numbers of transformers; {refused} were "
        "refused\n"
    )
    missing = [family for family, number in compared.items() if number == 0]
    for family in missing:
        sys.stdout.write(
            f"{family}: every model was refused, so nothing was compared; draw more, or with another seed\n"
        )
    return failed > 0 or bool(missing) or not folders


if __name__ == "__main__":
    sys.exit(main())
