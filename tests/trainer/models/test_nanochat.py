"""nanochat computes what the original computes: logits, loss, the gradient of every weight, and three steps of its
optimizer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import haliax as hax
import jax
import numpy as np
import pytest

from halcyon.commands.dial import adamw_groups
from halcyon.models import CausalLM, Inputs
from halcyon.optim import build_optimizer
from halcyon.step.objectives.next_token import next_token_sums
from halcyon_api.spec.optimizer import OptimizerSpec
from tests.trainer.models.cases import named
from tests.trainer.models.nanochat.golden import arrays, model_of
from tests.trainer.models.nanochat.settings import RATES, SCHEDULE, SIZES
from tests.trainer.models.reference import named_leaves

TOLERANCE = 2e-5
"""Largest error, as a part of the largest value of the array."""
RATE = RATES["matrix_lr"]

pytestmark = pytest.mark.slow


@functools.cache
def computed() -> tuple[np.ndarray, float, CausalLM, CausalLM]:
    """Logits, mean cross entropy, its gradient, and the model after three steps."""
    tokens, targets = (named(arrays()[name].astype(np.int32)) for name in ("tokens", "targets"))
    weights = hax.ones(tokens.axes)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(model: Any) -> Any:
        logits = model.logits(model(Inputs(tokens)).features).array
        return next_token_sums(model, Inputs(tokens), targets, weights).loss / weights.size, logits

    model: Any = model_of("weight")
    groups = adamw_groups(
        SIZES["n_embd"], RATE, embedding=RATES["embedding_lr"], head=RATES["unembedding_lr"], scalar=RATES["scalar_lr"]
    )
    spec = OptimizerSpec.model_validate(
        {"learningRate": RATE, "maxGradientNorm": 0.0, "muonAdamw": {}, "groups": groups}
    )
    optimizer = build_optimizer(spec, model)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def step(model: Any, state: Any, rate: Any, momentum: Any, decay: Any) -> Any:
        (value, logits), gradient = loss(model)
        changes, state = optimizer.update(
            gradient, state, model, learning_rate=rate, momentum=momentum, weight_decay=decay
        )
        return logits, value, gradient, jax.tree.map(lambda one, change: one + change, model, changes), state

    state, first = optimizer.init(model), None
    for factor, momentum, decay in SCHEDULE:
        logits, value, gradient, model, state = step(model, state, RATE * factor, momentum, decay)
        first = first or (np.asarray(logits), float(value), gradient)
    assert first is not None
    return (*first, model)


def errors(found: Any, expected: Any) -> dict[str, np.ndarray]:
    """The errors of each array, as a part of its largest value."""
    ours, theirs = named_leaves(found), named_leaves(expected)
    return {
        path: np.abs(np.asarray(ours[path].rearrange(leaf.axes).array) - np.asarray(leaf.array))
        / np.abs(leaf.array).max()
        for path, leaf in theirs.items()
    }


def test_logits_loss_and_every_gradient_are_those_of_the_original(measured: Callable[..., None]) -> None:
    logits, loss, gradient, _ = computed()
    expected = arrays()["logits"]
    of_logits = float(np.abs(logits - expected).max() / np.abs(expected).max())
    assert of_logits <= TOLERANCE
    assert loss == pytest.approx(float(arrays()["loss"]), rel=TOLERANCE)
    of_gradients = {path: float(error.max()) for path, error in errors(gradient, model_of("gradient")).items()}
    assert {path: error for path, error in of_gradients.items() if error > TOLERANCE} == {}
    measured("logits", "nanochat", of_logits)
    measured("gradients", "nanochat", max(of_gradients.values()))


def test_three_steps_of_the_optimizer_are_those_of_the_original() -> None:
    """AdamW divides a gradient by its size, so an element whose gradient is nearly 0 has a large error: few of them
    may.
    """
    for path, error in errors(computed()[3], model_of("after")).items():
        assert np.quantile(error, 0.999) <= 2e-4, (path, error.max())
        assert error.max() <= 2e-2, path


def test_the_smear_and_the_value_embeddings_matter() -> None:
    """The golden would show a model without them: they change its logits by more than a hundredth."""
    tokens: Any = named(arrays()["tokens"].astype(np.int32))
    model: Any = model_of("weight")

    def without(where: Callable[[Any], bool]) -> np.ndarray:
        found = [leaf * 0 if where(path) else leaf for path, leaf in named_leaves(model).items()]
        changed: Any = jax.tree.unflatten(
            jax.tree.structure(model, is_leaf=lambda leaf: isinstance(leaf, hax.NamedArray)), found
        )
        return np.asarray(changed.logits(changed(Inputs(tokens)).features).array)

    whole = without(lambda path: False)
    for part in ("smear/factor", "valued_blocks/values/table/weight", "backout"):
        assert np.abs(without(lambda path, part=part: path == part) - whole).max() > 0.01 * np.abs(whole).max(), part
