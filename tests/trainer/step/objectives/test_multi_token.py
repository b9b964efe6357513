"""Layers that predict further tokens (DeepSeek-AI 2024, section 2.2), against the formula written with loops over rows,
positions and layers. Blocks are those of the decoder, which test_parity.py compares with transformers.
"""

from __future__ import annotations

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import Inputs, build_model
from halcyon.models.axes import EMBED, is_named
from halcyon.models.decoder import Block
from halcyon.models.design import masks_and_rotations
from halcyon.models.stack import without_layers
from halcyon.step.objectives import build_objective
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec
from tests.trainer.models.cases import FAMILIES, LENGTH, VOCAB, batch, named
from tests.trainer.support.meshes import mesh_of

WEIGHT, ROWS = 0.4, 4
FAST = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
CASES = {"llama": 2, "deepseek-v3": 2, "qwen3-next": 1, "qwen3": 2, "gemma3": 3}


def spec_of(family: str, layers: int | None, **changes: Any) -> TrainingRunSpec:
    model = FAMILIES[family].document() | ({} if layers is None else {"numNextnPredictLayers": layers})
    objective = {} if layers is None else {"multiTokenWeight": WEIGHT}
    trainer = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": 2}
    whole = {"spec__model": model, "spec__trainer": trainer, "spec__objective": {"nextToken": objective}}
    return minimal_spec(**whole | changes)


def rows() -> dict[str, Any]:
    """Documents, of which the targets at the last position have no weight, as in the data of runs."""
    arrays = {
        name: np.asarray(each.array)
        for name, each in zip(("tokens", "targets", "weights", "segments"), batch(rows=ROWS), strict=True)
    }
    tokens, segments = arrays["tokens"], arrays["segments"]
    follows = np.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (0, 1)))
    return arrays | {
        "targets": np.where(follows, np.roll(tokens, -1, 1), arrays["targets"]),
        "weights": np.where(follows, arrays["weights"], np.float32(0)),
    }


def rms_norm(x: jax.Array, norm: Any, index: int) -> jax.Array:
    weight = norm.weight.array[index] + (1.0 if norm.scaling == "offset" else 0.0)
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + norm.epsilon) * weight


def block_of(stacked: Any, index: int) -> Any:
    def one(leaf: hax.NamedArray) -> Any:
        return jax.tree.map(lambda x: x[index], without_layers(leaf))

    return jax.tree.map(one, stacked, is_leaf=is_named)


def reference(model: Any, arrays: dict[str, np.ndarray]) -> list[jax.Array]:
    """The sum of the losses of each layer."""
    tokens, segments = named(arrays["tokens"]), named(arrays["segments"])
    inputs, design = Inputs(tokens, segments=segments), model.design
    x = model(inputs).features.rearrange(("batch", "position", EMBED)).array
    table = model.embedding.weight.rearrange(("vocab", EMBED)).array * (design.embedding_scale or 1.0)
    head = model.head.rearrange(("vocab", EMBED)).array
    kind, stacked = design.further.kind, model.further_blocks.stacked
    seen = masks_and_rotations([kind], inputs, hax.Axis("position", LENGTH), design.rotated or design.axes.head_size)
    losses: list[jax.Array] = []
    for depth in range(1, design.further.count + 1):
        known = np.minimum(np.arange(LENGTH) + depth, LENGTH - 1)  # the others have no target
        embedded = table[arrays["tokens"][:, known]]
        pair = [rms_norm(embedded, stacked.embedding_norm, depth - 1), rms_norm(x, stacked.hidden_norm, depth - 1)]
        joined = jnp.concatenate(pair, -1) @ stacked.projection.weight.array[depth - 1]
        block = block_of(stacked, depth - 1)
        out, _ = Block.__call__(block, hax.named(joined, ("batch", "position", EMBED)), *seen[kind])
        x = out.rearrange(("batch", "position", EMBED)).array
        logits = rms_norm(x, stacked.norm, depth - 1) @ head.T
        if model.logit_cap is not None:
            logits = model.logit_cap * jnp.tanh(logits / model.logit_cap)
        counts = np.zeros(logits.shape, np.float32)
        for row in range(ROWS):
            for at in range(LENGTH - depth):
                if arrays["segments"][row, at] == arrays["segments"][row, at + depth]:
                    counts[row, at, arrays["targets"][row, at + depth]] = arrays["weights"][row, at + depth]
        losses.append(-jnp.sum(counts * jax.nn.log_softmax(logits)))
    return losses


def of_layers(sums: Any) -> jax.Array:
    found = {name: value for name, value in sums.metrics.items() if name.startswith("multi_token_loss_")}
    return jnp.stack([found[f"multi_token_loss_{number}"] for number in range(1, len(found) + 1)])


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=() if number < 2 else pytest.mark.variant) for number, one in enumerate(CASES)]
)
def test_losses_and_gradients_are_those_of_the_formula(family: str) -> None:
    spec, plain = spec_of(family, CASES[family]), spec_of(family, None)
    arrays = rows()
    model: Any = build_model(spec.model, VOCAB, hax.Axis("position", LENGTH), key=jax.random.key(1))
    without: Any = build_model(plain.model, VOCAB, hax.Axis("position", LENGTH), key=jax.random.key(1))
    others = jax.tree.leaves(jax.tree.map(lambda one: one, without))
    for one, other in zip(jax.tree.leaves(model), others, strict=False):
        np.testing.assert_array_equal(one, other, "the other parameters begin as without the layers")
    noise = iter(jax.random.split(jax.random.key(2), 400))
    model = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape), model)
    objective, plainly = build_objective(spec), build_objective(plain)

    def added(model: Any) -> tuple[jax.Array, Any]:
        sums, main = objective(model, arrays, None, None), plainly(model, arrays, None, None)
        return sums.loss + WEIGHT * of_layers(sums).mean(), (sums, main)

    def expected(model: Any) -> tuple[jax.Array, Any]:
        losses = jnp.stack(reference(model, arrays))
        return plainly(model, arrays, None, None).loss + WEIGHT * losses.mean(), losses

    (value, (sums, main)), gradient = FAST(jax.value_and_grad(added, has_aux=True))(model)
    (total, losses), of_reference = FAST(jax.value_and_grad(expected, has_aux=True))(model)
    assert float(sums.loss) == pytest.approx(float(main.loss), rel=1e-6), "the reported loss is that of the next token"
    np.testing.assert_allclose(of_layers(sums), losses, rtol=1e-5)
    assert float(value) == pytest.approx(float(total), rel=1e-5)
    assert sums.penalty is not None
    routers = 0.0 if main.penalty is None else float(main.penalty)
    assert float(sums.penalty) - routers >= WEIGHT * float(losses.mean()) * (1 - 1e-5)
    for mine, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(of_reference), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-5 * max(1.0, float(jnp.abs(theirs).max())))
    assert any(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient.further_blocks))


@pytest.mark.slow
def test_a_step_has_the_same_numbers_on_every_mesh_and_for_any_microbatches() -> None:
    found: list[tuple[float, ...]] = []
    for microbatches, mesh in ((1, {}), (2, {}), (1, {"fsdp": 2})):
        changes = {"spec__trainer": {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH}}
        program = build_program(spec_of("llama", 2, **changes), VOCAB.size, mesh_of(**mesh))
        state = initial_state(program.build_state, program.template)
        batch = {name: array.reshape(microbatches, ROWS // microbatches, LENGTH) for name, array in rows().items()}
        with program.tracing():
            _, metrics = jax.jit(program.train_step)(state, batch, jnp.zeros(program.mesh.size, jnp.int32))
        losses = (metrics.metrics[f"multi_token_loss_{number}"] for number in (1, 2))
        found.append(tuple(map(float, (metrics.loss, metrics.gradient_norm, *losses))))
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=2e-5)


def test_fields_that_do_not_fit_are_refused_in_one_sentence() -> None:
    layers = {"spec__model__numNextnPredictLayers": 2}
    cases: list[tuple[dict[str, Any], str, str]] = [
        (
            {"spec__objective": {"nextToken": {"multiTokenWeight": 0.1}}},
            "spec.objective.nextToken.multiTokenWeight",
            "no",
        ),
        (
            layers | {"spec__objective": {"preference": {"dpo": {}}}},
            "spec.model.numNextnPredictLayers",
            "does not train",
        ),
        (
            {"spec__model": FAMILIES["qwen3-next"].document() | {"numNextnPredictLayers": 2}},
            "spec.model.num",
            "have one",
        ),
    ]
    for changes, field, words in cases:
        found = [one for one in find_problems(minimal_spec(**changes)) if one.field.startswith(field)]
        assert [words in one.message for one in found] == [True]
