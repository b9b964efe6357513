"""Reads the goldens of transformers (see goldens/make.py) through the weight maps."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import NamedArray

from halcyon.models import CausalLM, build_model
from halcyon.models.families.lookup import published_of_config
from halcyon.models.published.config import ConfigReader, PublishedModel
from halcyon.weights.layout import WeightLayout, leaf_shapes
from halcyon_api.spec.families.section import ModelSection
from tests.arrays import load_arrays

FOLDER = Path(__file__).parent / "goldens"
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))


@dataclass(frozen=True)
class Golden:
    """What one file holds; see goldens/make.py."""

    config: ConfigReader
    arrays: dict[str, np.ndarray]

    @staticmethod
    @functools.cache
    def load(name: str) -> Golden:
        """The golden of this name."""
        arrays = load_arrays(FOLDER / f"{name}.npz")
        return Golden(ConfigReader.parse(arrays["config"].tobytes()), arrays)

    def named(self, kind: str) -> dict[str, np.ndarray]:
        """The arrays of all weights: ``weight`` or ``gradient``, by name."""
        return {
            name.removeprefix(f"{kind} "): array for name, array in self.arrays.items() if name.startswith(f"{kind} ")
        }

    @property
    def form(self) -> PublishedModel:
        """The form of its config.json."""
        return published_of_config(self.config, images=True)

    @property
    def spec(self) -> ModelSection:
        """The model of its config.json."""
        return self.form.section(self.form.completed(self.config) if self.form.images else self.config)

    def layout(self) -> tuple[CausalLM, WeightLayout]:
        """The shapes of the model, and where its parameters lie in the tensors."""
        vocab, length = (
            hax.Axis("vocab", self.arrays["logits"].shape[-1]),
            hax.Axis("position", self.arrays["tokens"].shape[1]),
        )
        shapes = jax.eval_shape(functools.partial(build_model, self.spec, vocab, length, key=jax.random.key(0)))
        return shapes, WeightLayout(self.form.tensors(self.spec), leaf_shapes(shapes))

    def model(self) -> CausalLM:
        """The model with the golden's weights."""
        shapes, layout = self.layout()
        tensors = {
            str(layout.canonical(name)): array.astype(np.float32) for name, array in self.named("weight").items()
        }
        layout.check({name: tensor.shape for name, tensor in tensors.items()})
        rows = lambda name, start, stop: tensors[name][start:stop]  # noqa: E731
        arrays = [
            layout.read(leaf.path, tuple(slice(0, size) for size in leaf.shape), rows)
            for leaf in layout.leaves.values()
        ]
        return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(array) for array in arrays])

    def in_file(self, tree: Any) -> dict[str, np.ndarray]:
        """The arrays of a tree like the model, such as its gradient, by the names of the file."""
        _, layout = self.layout()
        leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, NamedArray))
        arrays = {path: np.asarray(leaf.array) for path, leaf in zip(layout.leaves, leaves, strict=True)}
        return {
            name: tensor.values(lambda path, region: arrays[path][region])
            for name, tensor in layout.tensors.items()
            if tensor.views
        }
