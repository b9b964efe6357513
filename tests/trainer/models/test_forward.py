"""The models compute the functions of the papers, compared with an independent float64 implementation."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import Inputs
from halcyon.models.stack import with_loops
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.trainer import Remat
from tests.trainer.models import reference
from tests.trainer.models.cases import (
    ARCHITECTURES,
    GPT2,
    LENGTH,
    LLAMA,
    VOCAB,
    WITH_REFERENCE,
    batch,
    changed,
    logits,
    losses,
    make,
    named,
)


@WITH_REFERENCE
@pytest.mark.parametrize("packed", [False, True], ids=["one-segment", "two-segments"])
def test_logits_are_those_of_the_reference(spec: ModelSection, packed: bool) -> None:
    model = make(spec)
    tokens, _, _, segments = batch()
    ours = logits(model, tokens, segments if packed else None)
    one_segment = np.zeros_like(segments.array)
    expected = reference.logits(
        reference.parameters_of(model), spec, tokens.array, segments.array if packed else one_segment
    )
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@WITH_REFERENCE
def test_loss_and_every_gradient_are_those_of_the_reference(spec: ModelSection) -> None:
    """The gradient of each parameter along a random direction equals a central difference of the reference's loss."""
    model, arrays = make(spec), batch()
    (total, weight), gradient = losses(model, *arrays)
    parameters = reference.parameters_of(model)
    noise = np.random.default_rng(3)

    def shifted(path: str, by: np.ndarray) -> float:
        return reference.loss_sum(
            {**parameters, path: parameters[path] + by}, spec, *(np.asarray(each.array) for each in arrays)
        )

    assert float(weight) == pytest.approx(float(np.sum(arrays[2].array)), rel=1e-6)
    assert float(total) == pytest.approx(shifted("embedding/weight", np.zeros(1)), rel=1e-5)
    gradients = {path: np.asarray(leaf.array, np.float64) for path, leaf in reference.named_leaves(gradient).items()}
    assert gradients.keys() == parameters.keys()
    for path, leaf in gradients.items():
        direction = noise.standard_normal(leaf.shape)
        difference = (shifted(path, 1e-5 * direction) - shifted(path, -1e-5 * direction)) / 2e-5
        size = np.linalg.norm(leaf)
        assert float((leaf * direction).sum()) == pytest.approx(difference, abs=1e-3 * size + 1e-5), path
        assert size > 1e-5 or path.endswith("attention/key/bias"), (
            path
        )  # softmax does not change if all scores change by the same number


@ARCHITECTURES
def test_a_later_token_does_not_change_earlier_logits(spec: ModelSection) -> None:
    model, (tokens, *_) = make(spec), batch()
    other = np.array(tokens.array)
    other[:, 7] = (other[:, 7] + 1) % VOCAB.size
    before, after = (np.asarray(logits(model, each)) for each in (tokens, named(other)))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(axis=-1).all()


def test_rematerialisation_keeps_one_carry_a_block() -> None:
    def scratch_bytes(remat: Remat) -> int:
        model = with_loops(make(changed(LLAMA, num_hidden_layers=8)), remat)
        return losses.lower(model, *batch(rows=64)).compile().memory_analysis().temp_size_in_bytes

    assert scratch_bytes("full") < 0.5 * scratch_bytes("none")


@ARCHITECTURES
def test_the_backward_pass_keeps_no_second_copy_of_the_weights(spec: ModelSection) -> None:
    model = make(spec)
    forward = next(
        each for each in _equations(losses.trace(model, *batch()).jaxpr.jaxpr) if each.primitive.name == "scan"
    )
    ends = zip(forward.outvars, forward.params["jaxpr"].jaxpr.outvars, strict=True)
    kept = [
        stacked.aval.shape for stacked, one in ends if stacked.aval.shape != one.aval.shape
    ]  # the others are carried
    matrices = {
        leaf.array.shape
        for path, leaf in reference.named_leaves(model).items()
        if path.startswith("blocks/") and leaf.ndim > 2
    }
    assert kept
    assert not matrices & set(kept)


@pytest.mark.parametrize(
    "spec", [pytest.param(LLAMA, id="llama"), pytest.param(GPT2, id="gpt2", marks=pytest.mark.variant)]
)
def test_bfloat16_is_close_and_keeps_the_required_operations_in_float32(spec: ModelSection) -> None:
    model, arrays = make(spec), batch()
    (wide, _), _ = losses(model, *arrays)
    (narrow, _), gradient = losses(model, *arrays, dtype="bfloat16")
    assert float(narrow) == pytest.approx(float(wide), rel=0.03)
    assert float(narrow) != float(wide)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}

    types = _operand_types(losses.trace(model, *arrays, dtype="bfloat16").jaxpr.jaxpr)
    assert jnp.dtype("bfloat16") in types["dot_general"]
    for name in ("exp", "log", "rsqrt", "reduce_max", "reduce_sum"):
        assert types[name] == {jnp.dtype("float32")}, name


def _equations(program: Any) -> Iterator[Any]:
    """Every equation of a jaxpr, including those of inner jaxprs."""
    for equation in program.eqns:
        yield equation
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda each: hasattr(each, "eqns") or hasattr(each, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _operand_types(program: Any) -> dict[str, set[jnp.dtype]]:
    """Floating-point types of the operands, by primitive."""
    found: dict[str, set[jnp.dtype]] = {}
    for equation in _equations(program):
        types = {variable.aval.dtype for variable in equation.invars if hasattr(variable.aval, "dtype")}
        found.setdefault(equation.primitive.name, set()).update(
            each for each in types if jnp.issubdtype(each, jnp.floating)
        )
    return found


@ARCHITECTURES
def test_a_sequence_longer_than_the_model_is_refused(spec: ModelSection) -> None:
    with pytest.raises(ValueError, match="a sequence of 13 tokens is longer than the model's 12 positions"):
        logits(make(spec), named(np.zeros((1, LENGTH + 1), np.int32)))


@ARCHITECTURES
def test_positions_may_be_given(spec: ModelSection) -> None:
    """Positions from 0 change nothing; other positions are those of a text that begins later."""
    model, (tokens, *_) = make(spec), batch()

    def features(first: int | None) -> jax.Array:
        positions = (
            None if first is None else named(np.broadcast_to(np.arange(first, first + 5, dtype=np.int32), (4, 5)))
        )
        return model(Inputs(named(tokens.array[:, :5]), positions=positions)).features.array

    np.testing.assert_allclose(features(None), features(0), rtol=1e-4, atol=1e-4)
    moved = np.asarray(features(3) - features(0))
    if spec.family != "gpt2":  # only distances count
        np.testing.assert_allclose(moved, 0, atol=2e-3)
    else:
        assert np.abs(moved).max() > 0.1


@ARCHITECTURES
def test_a_shorter_sequence_gets_the_same_logits(spec: ModelSection) -> None:
    model, (tokens, *_) = make(spec), batch()
    whole, part = logits(model, tokens), logits(model, named(tokens.array[:, :5]))
    np.testing.assert_allclose(whole[:, :5], part, rtol=1e-4, atol=1e-4)
