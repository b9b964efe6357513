"""Blocks that are apart compute what the stack of them computes, in the memory of the stack."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis, NamedArray

from halcyon.models.parameters import Role
from halcyon.models.parts.linear import Linear
from halcyon.models.stack import Stack, blocks_apart, taken_apart
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import FAMILIES, LENGTH, VOCAB, logits, make, named


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("spec", FAMILIES.values(), ids=FAMILIES)
def test_blocks_apart_compute_the_numbers_of_their_stack(spec: ModelSection) -> None:
    model = make.__wrapped__(spec)
    tokens = named(np.random.default_rng(0).integers(0, VOCAB.size, (2, LENGTH), np.int32))
    separate = blocks_apart(model)
    assert len(jax.tree.leaves(separate)) > len(jax.tree.leaves(model))
    expected = np.asarray(logits(model, tokens))
    np.testing.assert_allclose(np.asarray(logits(separate, tokens)), expected, atol=2e-5 * np.abs(expected).max())


def _stack(features: int, count: int = 3) -> Stack[Any]:
    layers, embed = Axis("layers", count), Axis("embed", features)
    weight = jnp.arange(count * features * 16, dtype=jnp.float32).reshape(count, features, 16)
    return Stack(layers, Linear((embed,), Role.MATRIX, NamedArray(weight, ("layers", "embed", "out")), None))


def test_no_weight_is_copied() -> None:
    stack = _stack(8)
    whole = stack.stacked.weight.array
    separate = blocks_apart(stack)
    for number in range(3):
        part = separate.block(number).weight
        np.testing.assert_array_equal(part.array, whole[number])
        assert part.axis_names == ("embed", "out")
        if whole.unsafe_buffer_pointer() % 64 == 0:  # the allocator of JAX decides
            assert part.array.unsafe_buffer_pointer() == whole.unsafe_buffer_pointer() + number * 8 * 16 * 4


def test_a_model_that_scans_by_itself_gets_a_stack() -> None:
    stack = _stack(8)
    (ours, _), (theirs, _) = blocks_apart(stack).blocks, stack.blocks
    np.testing.assert_array_equal(jax.tree.leaves(ours)[0], jax.tree.leaves(theirs)[0])
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_small_and_long_models_keep_their_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = _stack(8)
    assert taken_apart(stack) is stack
    monkeypatch.setattr("halcyon.models.stack.LEAST_BYTES", 1024)
    assert taken_apart(stack).apart
    monkeypatch.setattr("halcyon.models.stack.MOST_BLOCKS", 2)
    assert taken_apart(stack) is stack
