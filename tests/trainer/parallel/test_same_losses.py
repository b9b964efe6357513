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
from tests.trainer.meshes import mesh_from

STEPS, ROWS, LENGTH = 10, 16, 12
ALONE = "fsdp 1"
"""The mesh of one device."""
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
MODELS = {"llama": LLAMA, "tied": TIED, "gpt2": GPT2, "olmo3": OLMO3, "gemma2": GEMMA2, "qwen3": QWEN3, "mixtral": MIXTRAL}


@functools.cache
def losses(model: str, on: str = ALONE, microbatches: int = 1, kind: str = "cpu", compute: str = "float32") -> list[float]:
    """Losses of a run on a mesh; see `mesh_from`. On v5e the memory suffices to gather the parameters."""
    settings = {"batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches, "precision": {"compute": compute}}
    run = document(
        spec__accelerator={"type": kind, "topology": "2x4" if kind == "v5e" else "1x8", "slices": 1},
        spec__model=MODELS[model],
        spec__optimizer={"learningRate": 0.01, "adamw": {}},
        spec__trainer={"steps": STEPS} | settings,
    )
    mesh = mesh_from(on)
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
    ("llama", "fsdp 8", 1, "cpu"),
    ("gpt2", "replica 2 x fsdp 2 x tensor 2", 4, "cpu"),
    ("llama", "fsdp 4 x tensor 2", 2, "v5e"),
    ("olmo3", "fsdp 4 x tensor 2", 1, "cpu"),
    ("gpt2", "data 2 x context 3", 2, "cpu"),
    ("llama", "fsdp 2 x context 2 x tensor 2", 1, "cpu"),
    ("mixtral", "fsdp 2 x expert 4", 1, "cpu"),
    ("mixtral", "fsdp 2 x expert 2 x context 2", 1, "cpu"),
]
"""Model, mesh, microbatches, accelerator."""

DENSE = (
    "fsdp 8",
    "data 8",
    "replica 8",
    "fsdp 4 x tensor 2",
    "data 2 x tensor 4",
    "replica 2 x data 2 x fsdp 2",
    "replica 2 x fsdp 2 x tensor 2",
)
CONTEXT = (
    "context 2",
    "context 6",
    "fsdp 4 x context 2",
    "data 2 x context 3",
    "replica 2 x fsdp 2 x context 2",
    "replica 2 x context 2 x tensor 2",
)
EXPERT = (
    "expert 8",
    "fsdp 2 x expert 4",
    "fsdp 2 x expert 2 x tensor 2",
    "replica 2 x fsdp 2 x expert 2",
    "replica 2 x data 2 x expert 2",
    "expert 2 x context 2 x tensor 2",
    "replica 2 x expert 2 x context 2",
)
FURTHER = ("olmo3", "gemma2", "qwen3")
"""Families with parts that Llama and GPT-2 lack; their test is on a few meshes."""

MORE: list[Any] = [
    (model, on, *how)
    for models, meshes in (
        (("llama", "tied", "gpt2"), DENSE + CONTEXT),
        (FURTHER, ("data 2 x fsdp 2 x tensor 2", "replica 2 x tensor 2", "fsdp 2 x context 2 x tensor 2")),
        (("mixtral",), EXPERT),
    )
    for model in models
    for on in meshes
    for how in ([(2, "cpu")] if model in FURTHER else [(1, "cpu"), (2, "cpu"), (2, "v5e")])
    if (model, on, *how) not in FEW and ("tensor 4" not in on or model == "gpt2")
]


@pytest.mark.parametrize(
    ("model", "on", "microbatches", "kind"),
    [*FEW, *(pytest.param(*each, marks=[pytest.mark.slow, pytest.mark.variant]) for each in MORE)],
)
def test_losses_are_those_of_one_device(model: str, on: str, microbatches: int, kind: str) -> None:
    np.testing.assert_allclose(losses(model, on, microbatches, kind), losses(model), rtol=0, atol=5e-6)


def test_losses_in_narrow_compute_are_about_those_of_one_device() -> None:
    found = losses("gpt2", "replica 2 x fsdp 2 x tensor 2", 2, "v5e", "bfloat16")
    np.testing.assert_allclose(found, losses("gpt2", compute="bfloat16"), rtol=0.01)
