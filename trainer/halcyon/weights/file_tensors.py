"""Parameters and gradients in memory, by the names of an exported file."""

from __future__ import annotations

import jax
import numpy as np

from halcyon.checkpoint.layout import Region
from halcyon.models import CausalLM
from halcyon.models.axes import VOCAB, is_named
from halcyon.models.families.lookup import form_of_section
from halcyon.weights.layout import WeightLayout, leaf_shapes
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model import ModelSpec


def file_tensors(spec: ModelSpec, tree: CausalLM) -> dict[str, np.ndarray]:
    """The arrays of a model by the names and shapes that they have in the files of Hugging Face.

    An export computes no value, it only moves them. So the same holds for a tree with the structure of a model: the
    gradient of an exported tensor has its name here. The gradient of a tied head is a part of that of the token
    embedding. Rows of padding are left out.

    Args:
        spec: ``spec.model`` of the run.
        tree: A model, its gradient, or its update: outside of ``jax.jit``.

    Returns:
        Arrays by name, in the order of layers and in the types of `tree`.

    Raises:
        BadConfiguration: The family has no form of Hugging Face.
        TypeError: `tree` is not of a model with this spec.
    """
    section = spec.value
    assert isinstance(section, ModelSection)  # noqa: S101 - the members of ModelSpec are sections
    leaves = leaf_shapes(tree)
    layout = WeightLayout(form_of_section(section).tensors(section), leaves, {VOCAB: tree.token_count})
    arrays = [np.asarray(leaf.array) for leaf in jax.tree.leaves(tree, is_leaf=is_named)]
    by_path = {leaf.path: array for leaf, array in zip(leaves, arrays, strict=True)}

    def read(path: str, region: Region) -> np.ndarray:
        return by_path[path][region]

    return {name: tensor.values(read) for name, tensor in layout.tensors.items() if tensor.constant is None}
