"""A training with an adapter: what it trains and stores, and that dropout changes neither with microbatches nor with
the mesh.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.checkpoint.layout import flatten
from halcyon.host.errors import BadConfiguration
from halcyon.step.program import Program, build_program
from halcyon.step.state import TrainState, initial_state
from halcyon_api.memory import least_need
from halcyon_api.mesh import run_mesh
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import minimal_spec
from tests.families import SMALL_FAMILIES
from tests.trainer.support.meshes import mesh_of

TINY = {"family": "llama", "numHiddenLayers": 2, "hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 2}
ORIGIN = {"huggingFace": {"path": "/base"}}
ROWS, LENGTH, VOCABULARY = 8, 8, 60


def spec_of(lora: dict[str, Any] | None, model: dict[str, Any] = TINY, **trainer: Any) -> TrainingRunSpec:
    trainer = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH} | trainer
    adapter = {} if lora is None else {"spec__adapter": {"lora": lora}}
    optimizer = {"learningRate": 0.01, "schedule": {"constant": {}}, "adamw": {}}
    return minimal_spec(
        spec__model=model, spec__from=ORIGIN, spec__optimizer=optimizer, spec__trainer=trainer, **adapter
    )


def test_only_the_adapter_has_moments_and_a_state_without_one_is_as_before() -> None:
    program = build_program(
        spec_of({"rank": 2, "targets": ["*.query.*"], "trainAlso": ["norm.weight"]}), VOCABULARY, mesh_of()
    )
    plain = build_program(spec_of(None), VOCABULARY, mesh_of())
    trained = {
        "blocks.stacked.attention.query.adapter.down",
        "blocks.stacked.attention.query.adapter.up",
        "norm.weight",
    }
    found = {leaf.path: leaf for leaf in flatten(program.template)}
    assert {path for path in found if path.startswith("optimizer_state.1.mu.")} == {
        f"optimizer_state.1.mu.{path}" for path in trained
    }
    assert {path for path in found if path.startswith("model.") and ".adapter." not in path} == {
        leaf.path for leaf in flatten(plain.template) if leaf.path.startswith("model.")
    }
    narrow = build_program(
        spec_of({"rank": 2}, precision={"parameters": "bfloat16"}), VOCABULARY, mesh_of()
    ).template.model
    assert narrow.blocks.stacked.attention.query.adapter.up.dtype == jnp.float32
    assert narrow.blocks.stacked.attention.query.weight.dtype == jnp.bfloat16
    assert plain.trained is None


def state_bytes(spec: TrainingRunSpec) -> int:
    return least_need(spec, run_mesh(spec)).state_bytes


def test_frozen_parameters_need_only_their_own_memory() -> None:
    assert state_bytes(spec_of({})) * 4 == state_bytes(spec_of(None))


@pytest.mark.parametrize(
    ("lora", "sentence"),
    [
        ({"targets": ["*.atention.*"]}, "spec.adapter.lora.targets: '.*' matches no weight"),
        ({"trainAlso": ["head"]}, "lora.trainAlso: 'head' matches no"),
    ],
)
def test_patterns_without_a_match_are_refused(lora: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=sentence):
        build_program(spec_of(lora), VOCABULARY, mesh_of())


def stepped(program: Program, first: TrainState, batch: dict[str, Any], microbatches: int) -> tuple[TrainState, float]:
    """The state after two steps, and the loss of the second: in the first, the adapter still computes 0."""
    state: Any = first
    parts = {name: jnp.asarray(rows.reshape(microbatches, -1, LENGTH)) for name, rows in batch.items()}
    with program.tracing():
        step = jax.jit(program.train_step)
        for _ in range(2):
            state, metrics = step(state, parts, jnp.zeros(program.mesh.size, jnp.int32))
    return state, float(metrics.loss)


@pytest.mark.slow
def test_dropout_is_a_function_of_seed_step_and_row_and_frozen_parameters_keep_their_bits() -> None:
    """One device with the whole batch, and four devices with two microbatches, compute the same."""
    noise = np.random.default_rng(0)
    tokens, targets = noise.integers(0, VOCABULARY, (2, ROWS, LENGTH)).astype(np.int32)
    batch = {
        "tokens": tokens,
        "targets": targets,
        "weights": np.ones(tokens.shape, np.float32),
        "segments": np.zeros_like(tokens),
    }
    lora = {"rank": 2, "dropout": 0.5, "targets": ["*.value.*", "*.up.*"]}
    whole = build_program(spec_of(lora), VOCABULARY, mesh_of())
    divided = build_program(spec_of(lora, microbatches=2), VOCABULARY, mesh_of(data=2, fsdp=2))
    first = jax.tree.map(np.asarray, initial_state(whole.build_state, whole.template))
    last, loss = stepped(whole, first, batch, 1)
    assert stepped(divided, first, batch, 2)[1] == pytest.approx(loss, rel=1e-6)
    before, after = ({leaf.path: np.asarray(leaf.value) for leaf in flatten(state.model)} for state in (first, last))
    for path, bits in before.items():
        assert np.array_equal(bits, after[path]) == (".adapter." not in path), path


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize(
    ("mesh", "base"),
    [
        ({"fsdp": 2, "tensor": 2}, None),
        ({"fsdp": 2, "tensor": 2}, "nf4"),
        ({"expert": 2, "tensor": 2}, "mxfp4"),
        ({"data": 2, "expert": 2}, None),
    ],
    ids=str,
)
def test_adapters_of_experts_train_alike_on_every_mesh(mesh: dict[str, int], base: str | None) -> None:
    noise = np.random.default_rng(0)
    tokens, targets = noise.integers(0, VOCABULARY, (2, ROWS, LENGTH)).astype(np.int32)
    batch = {
        "tokens": tokens,
        "targets": targets,
        "weights": np.ones(tokens.shape, np.float32),
        "segments": np.zeros_like(tokens),
    }
    sizes = {} if base is None else {"hiddenSize": 128, "intermediateSize": 128}
    model, lora = SMALL_FAMILIES["mixtral"] | {"numHiddenLayers": 1, **sizes}, {"rank": 2, "base": base}
    whole = build_program(spec_of(lora, model), VOCABULARY, mesh_of())
    divided = build_program(spec_of(lora, model, microbatches=2), VOCABULARY, mesh_of(**mesh))
    noise = np.random.default_rng(1)

    def moved(path: Any, leaf: Any) -> np.ndarray:
        found = np.asarray(leaf)
        return (
            found + 0.1 * noise.standard_normal(found.shape).astype(np.float32)
            if "_adapter" in jax.tree_util.keystr(path)
            else found
        )

    first = initial_state(whole.build_state, whole.template)
    first = dataclasses.replace(first, model=jax.tree_util.tree_map_with_path(moved, first.model))
    first = jax.tree.map(np.asarray, first)
    (one, loss), (other, divided_loss) = stepped(whole, first, batch, 1), stepped(divided, first, batch, 2)
    assert divided_loss == pytest.approx(loss, rel=1e-5)
    for left, right in zip(flatten(one.optimizer_state), flatten(other.optimizer_state), strict=True):
        np.testing.assert_allclose(
            np.asarray(left.value), np.asarray(right.value), rtol=2e-3, atol=1e-7, err_msg=left.path
        )
