"""Ten steps on any mesh, with any number of microbatches, have the losses of one device."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.training.program import build_program
from halcyon.training.state import initial_state
from halcyon_api.training_run import parse_run
from tests.api.documents import document
from tests.trainer.batches import batch_of
from tests.trainer.meshes import mesh_of

STEPS, ROWS, LENGTH = 10, 16, 12
LLAMA: dict[str, Any] = {"llama": {"layers": 2, "hiddenSize": 16, "intermediateSize": 24, "heads": 4, "kvHeads": 2}}
TIED: dict[str, Any] = {"llama": LLAMA["llama"] | {"tieEmbeddings": True}}
GPT2: dict[str, Any] = {"gpt2": {"layers": 2, "hiddenSize": 16, "heads": 4}}
MIXTRAL: dict[str, Any] = {
    "mixtral": {
        "numHiddenLayers": 2,
        "hiddenSize": 16,
        "intermediateSize": 8,
        "numAttentionHeads": 4,
        "numKeyValueHeads": 2,
        "numLocalExperts": 8,
        "routerAuxLossCoef": 0.1,
        "routerZLossCoef": 0.01,
    }
}
SIZES: dict[str, Any] = {"hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 4, "numKeyValueHeads": 2}
OLMO3: dict[str, Any] = {"olmo3": SIZES | {"numHiddenLayers": 5, "slidingWindow": 4, "attentionBias": True}}
"""A mesh splits what a norm of all heads together is a mean of."""
GEMMA2: dict[str, Any] = {"gemma2": SIZES | {"numHiddenLayers": 3, "slidingWindow": 4, "finalLogitSoftcapping": 2.0}}
QWEN3: dict[str, Any] = {"qwen3": SIZES | {"numHiddenLayers": 2, "attentionBias": True}}
FURTHER = ("olmo3", "gemma2", "qwen3", "mixtral")
MODELS = {"llama": LLAMA, "tied": TIED, "gpt2": GPT2, "olmo3": OLMO3, "gemma2": GEMMA2, "qwen3": QWEN3, "mixtral": MIXTRAL}


@functools.cache
def losses(
    model: str, sizes: tuple[int, ...], microbatches: int = 1, kind: str = "cpu", compute: str = "float32", products: str | None = None
) -> list[float]:
    """Losses of a run on a mesh of these sizes; see `mesh_of`. On v5e the memory suffices to gather the parameters."""
    precision = {"compute": compute} | ({"products": products} if products else {})
    settings = {"batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches, "precision": precision}
    run = document(
        spec__accelerator={"type": kind, "topology": {"v5e": "2x4", "v7x": "2x2x1"}.get(kind, "1x8"), "slices": 1},
        spec__model=MODELS[model],
        spec__optimizer={"learningRate": 0.01, "adamw": {}},
        spec__trainer={"steps": STEPS} | settings,
    )
    mesh = mesh_of(*sizes)
    program = build_program(parse_run(run).spec, 60, mesh)
    state, step = initial_state(program.build_state, program.template), program.compile_step(ROWS, LENGTH)
    control = jax.device_put(np.zeros(mesh.size, np.int32), program.control_sharding)
    found = []
    for number in range(STEPS):
        noise = np.random.default_rng(number)
        tokens = noise.integers(0, 60, (ROWS, LENGTH + 1))
        # Weights and documents differ between rows, and some weights are 0, so a mean of means would give another loss.
        weights, documents = (
            noise.random((ROWS, LENGTH)) > np.linspace(0, 0.9, ROWS)[:, None],
            np.cumsum(noise.random((ROWS, LENGTH)) < 0.2, 1),
        )
        arrays = (tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32), weights.astype(np.float32), documents.astype(np.int32))
        parts = (jax.device_put(each.reshape(microbatches, -1, LENGTH), program.batch_sharding) for each in arrays)
        state, metrics = step(state, batch_of(*parts), control)
        found.append(float(metrics.loss))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.model)} == {jnp.dtype("float32")}
    return found


FEW: list[Any] = [
    ("llama", (1, 1, 8, 1), 1, "cpu"),
    ("gpt2", (2, 1, 2, 2), 4, "cpu"),
    ("llama", (1, 1, 4, 2), 2, "v5e"),
    ("mixtral", (1, 1, 2, 1, 4), 1, "cpu"),
    ("olmo3", (1, 1, 4, 2), 1, "cpu"),
]
MORE: list[Any] = [
    (model, sizes, microbatches, kind)
    for model in MODELS
    for sizes in ((1, 1, 8, 1), (1, 8, 1, 1), (2, 2, 2, 1), (2, 1, 2, 2), (1, 1, 4, 2), (1, 2, 1, 4), (8, 1, 1, 1))
    for microbatches, kind in ((1, "cpu"), (2, "cpu"), (2, "v5e"))
    if (model, sizes, microbatches, kind) not in FEW and sizes[3] <= (2 if model != "gpt2" else 4) and model not in FURTHER
] + [(model, sizes, 2, "cpu") for model in FURTHER for sizes in ((1, 2, 2, 2), (2, 1, 1, 2))]
MORE += [
    ("mixtral", sizes, microbatches, kind)
    for sizes in ((1, 1, 1, 1, 8), (1, 1, 2, 2, 2), (2, 1, 2, 1, 2), (2, 2, 1, 1, 2), (1, 1, 2, 1, 4))
    for microbatches, kind in ((1, "cpu"), (2, "cpu"), (2, "v5e"))
    if ("mixtral", sizes, microbatches, kind) not in FEW
]
"""The last size of a mesh is that of the axis ``expert``."""


@pytest.mark.parametrize(
    ("model", "sizes", "microbatches", "kind"),
    [*FEW, *(pytest.param(*each, marks=[pytest.mark.slow, pytest.mark.variant]) for each in MORE)],
)
def test_losses_are_those_of_one_device(model: str, sizes: tuple[int, ...], microbatches: int, kind: str) -> None:
    np.testing.assert_allclose(losses(model, sizes, microbatches, kind), losses(model, (1, 1, 1, 1)), rtol=0, atol=5e-6)


def test_losses_in_narrow_compute_are_about_those_of_one_device() -> None:
    sizes = (2, 1, 2, 2)
    np.testing.assert_allclose(losses("gpt2", sizes, 2, "v5e", "bfloat16"), losses("gpt2", (1, 1, 1, 1), compute="bfloat16"), rtol=0.01)


@pytest.mark.parametrize("products", ["int8", pytest.param("float8", marks=[pytest.mark.slow, pytest.mark.variant])])
def test_losses_with_products_of_8_bits_are_about_those_of_one_device_and_of_wide_products(products: str) -> None:
    kind = "v7x" if products == "float8" else "v5e"
    one = losses("llama", (1, 1, 1, 1), kind=kind, products=products)
    np.testing.assert_allclose(losses("llama", (1, 1, 4, 2), 2, kind, products=products), one, rtol=2e-3)
    wide = losses("llama", (1, 1, 1, 1))
    np.testing.assert_allclose(one, wide, rtol=0.01)
    assert one != wide
