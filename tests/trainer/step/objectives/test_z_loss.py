"""The z-loss of ``objective.nextToken``, compared with Levanter's formula: the mean of cross entropy + weight x
log_normalizer^2.

Levanter takes both from ``haliax.nn.cross_entropy_loss_and_log_normalizers``, and so does the reference here.
"""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import NamedArray

from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.step.objectives import build_objective
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.step.validation import make_evaluation_step
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import minimal_spec
from tests.trainer.models.cases import FAMILIES, LENGTH, VOCAB, batch, make
from tests.trainer.support.meshes import mesh_of

WEIGHT = 0.3
ROWS = 4
MODELS = [
    "llama",
    pytest.param("gemma2", marks=pytest.mark.variant),
    pytest.param("mixtral", marks=pytest.mark.variant),
]


def spec_of(family: str, z_loss: float | None) -> TrainingRunSpec:
    objective = {"nextToken": {} if z_loss is None else {"zLoss": z_loss}}
    trainer = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": 2}
    return minimal_spec(spec__model=FAMILIES[family].document(), spec__objective=objective, spec__trainer=trainer)


def rows() -> dict[str, jax.Array]:
    return {
        name: each.array
        for name, each in zip(("tokens", "targets", "weights", "segments"), batch(rows=ROWS), strict=True)
    }


def levanter(model: CausalLM, arrays: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The loss with and without the z-loss, both weighted means over tokens; all logits at once."""
    axes = (hax.Axis(BATCH, ROWS), hax.Axis(POSITION, LENGTH))
    tokens, targets, weights = (hax.named(arrays[name], axes) for name in ("tokens", "targets", "weights"))
    features = model(Inputs(tokens, segments=hax.named(arrays["segments"], axes))).features
    logits: Any = hax.dot(
        features.astype(jnp.float32), model.head.astype(jnp.float32), axis=model.embed, precision="highest"
    )
    if model.logit_cap is not None:
        logits = model.logit_cap * hax.tanh(logits / model.logit_cap)
    vocab = VOCAB.resize(model.tokens or VOCAB.size)
    logits = logits.slice(model.vocab, vocab, 0)  # without the rows that pad the vocabulary
    loss, log_normalizers = hax.nn.cross_entropy_loss_and_log_normalizers(logits, vocab, hax.nn.one_hot(targets, vocab))

    def mean(losses: NamedArray) -> jax.Array:
        return (hax.sum(losses * weights) / hax.sum(weights)).scalar()

    return mean(loss + WEIGHT * log_normalizers**2), mean(loss)


@pytest.mark.parametrize("family", MODELS)
def test_loss_and_gradient_are_those_of_levanter(family: str) -> None:
    model, arrays = make(FAMILIES[family]), rows()
    objective, plain = (build_objective(spec_of(family, weight)) for weight in (WEIGHT, None))

    def added(model: CausalLM) -> tuple[jax.Array, Any]:
        sums, routers = objective(model, arrays, None, None), plain(model, arrays, None, None).penalty
        assert sums.penalty is not None
        z_loss = sums.penalty if routers is None else sums.penalty - routers
        return (sums.loss + z_loss) / sums.weight, sums

    (value, sums), gradient = jax.jit(jax.value_and_grad(added, has_aux=True))(model)
    (expected, cross_entropy), of_reference = jax.jit(
        jax.value_and_grad(lambda model: levanter(model, arrays), has_aux=True)
    )(model)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(sums.loss / sums.weight) == pytest.approx(float(cross_entropy), rel=1e-5), (
        "the reported loss is the cross entropy"
    )
    assert WEIGHT * float(sums.metrics["z_loss"] / sums.weight) == pytest.approx(
        float(expected - cross_entropy), rel=1e-4
    )
    for mine, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(of_reference), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5 * max(1.0, float(jnp.abs(theirs).max())))


@pytest.mark.slow
def test_a_step_and_an_evaluation_report_the_cross_entropy() -> None:
    """The gradient of the step is that of Levanter's loss; reported loss and evaluation are those of the same model
    without z-loss.
    """
    batch = {name: array.reshape(2, ROWS // 2, LENGTH) for name, array in rows().items()}
    program = build_program(spec_of("llama", WEIGHT), VOCAB.size, mesh_of())
    state = initial_state(program.build_state, program.template)
    expected, of_reference = jax.jit(jax.value_and_grad(lambda model: levanter(model, rows()), has_aux=True))(
        state.model
    )
    evaluated = jax.jit(make_evaluation_step(program.objective, np.ones(VOCAB.size, np.int32)))(state.model, batch)
    norm = np.sqrt(sum(float(jnp.sum(leaf * leaf)) for leaf in jax.tree.leaves(of_reference)))
    with program.tracing():
        _, metrics = jax.jit(program.train_step)(state, batch, jnp.zeros(program.mesh.size, jnp.int32))
    total, cross_entropy = map(float, expected)
    assert float(metrics.loss) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4)
    assert WEIGHT * float(metrics.metrics["z_loss"]) == pytest.approx(total - cross_entropy, rel=1e-4)
    assert float(evaluated.nats / evaluated.weight) == pytest.approx(cross_entropy, rel=1e-5)
