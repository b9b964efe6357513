"""The loss: weighted sums of parts add up to the sum of the whole, and blocks of logits change nothing."""

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models.log_probs import cross_entropy
from halcyon.models.softmax import Softmax
from tests.suite import promises
from tests.trainer.models.cases import LLAMA, batch, losses, make, named

BATCH, POSITION, EMBED, VOCAB = hax.make_axes(batch=3, position=12, embed=8, vocab=17)


@pytest.fixture
def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    features = hax.random.normal(keys[0], (BATCH, POSITION, EMBED))
    head = hax.random.normal(keys[1], (EMBED, VOCAB))
    targets = hax.random.randint(keys[2], (BATCH, POSITION), 0, VOCAB.size)
    weights = hax.random.uniform(keys[3], (BATCH, POSITION))
    return features, head, targets, weights


def plain(features, head, targets, weights):
    """The textbook formula, for automatic differentiation."""
    logits = jnp.einsum("bpe,ev->bpv", features.array, head.array, precision="highest")
    of_target = jnp.take_along_axis(jax.nn.log_softmax(logits), targets.array[..., None], axis=-1)[..., 0]
    return -jnp.sum(of_target * weights.array)


@pytest.mark.parametrize(
    ("logit_bytes", "transposed"),
    [(1, False), (1000, True), (1 << 20, False)],
    ids=["a-block-a-position", "some-blocks", "one-block"],
)
def test_values_and_gradients_are_those_of_the_textbook(arrays, logit_bytes, transposed):
    features, head, targets, weights = arrays
    if transposed:
        head = head.rearrange((VOCAB, EMBED))

    def ours(features, head):
        return (
            3.0
            * cross_entropy(features, head, targets, weights, Softmax(EMBED, VOCAB), max_logit_bytes=logit_bytes).total
        )

    def textbook(features, head):
        return 3.0 * plain(features, head.rearrange((EMBED, VOCAB)), targets, weights)

    assert float(jax.jit(ours)(features, head)) == pytest.approx(float(textbook(features, head)), rel=1e-5)
    mine = jax.jit(jax.value_and_grad(ours, (0, 1)))(features, head)
    theirs = jax.jit(jax.value_and_grad(textbook, (0, 1)))(features, head)
    for left, right in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_huge_logits_do_not_overflow(arrays):
    features, head, targets, weights = arrays
    value, gradient = jax.jit(
        jax.value_and_grad(lambda f: cross_entropy(f * 1e4, head, targets, weights, Softmax(EMBED, VOCAB)).total)
    )(features)
    assert np.isfinite(float(value))
    assert np.isfinite(np.asarray(gradient.array)).all()


@promises.WEIGHTED_SUMS
def test_microbatches_add_up_to_the_batch():
    model, arrays = make(LLAMA), batch(rows=8)
    whole = losses(model, *arrays)
    parts = [losses(model, *(named(each.array[rows : rows + 4]) for each in arrays)) for rows in (0, 4)]
    added = jax.tree.map(jnp.add, *parts)
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(added), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5 * float(jnp.abs(left).max()))


def test_a_padded_row_of_weight_zero_changes_nothing():
    model, arrays = make(LLAMA), batch(rows=8)
    padded = [np.array(each.array) for each in arrays]
    padded[2][4:] = 0
    for left, right in zip(
        jax.tree.leaves(losses(model, *map(named, padded))),
        jax.tree.leaves(losses(model, *(named(each.array[:4]) for each in arrays))),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5 * float(jnp.abs(left).max()))


def test_logits_are_never_all_in_memory_at_once():
    """With logits in blocks, the scratch memory of the gradient is less than half of a float32 array of all logits."""
    features = hax.zeros((BATCH.resize(8), POSITION.resize(256), EMBED))
    head = hax.zeros((EMBED, VOCAB.resize(4096)))
    rows = (BATCH.resize(8), POSITION.resize(256))

    def loss(features, head):
        return cross_entropy(
            features,
            head,
            hax.zeros(rows, jnp.int32),
            hax.ones(rows),
            Softmax(EMBED, VOCAB.resize(4096)),
            max_logit_bytes=1 << 21,
        ).total

    scratch = jax.jit(jax.grad(loss, (0, 1))).lower(features, head).compile().memory_analysis().temp_size_in_bytes
    assert scratch < 8 * 256 * 4096 * 4 / 2
