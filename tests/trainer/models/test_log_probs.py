"""Log-probabilities of tokens equal the textbook formula, on one device and on meshes, and any function of them can be
differentiated.
"""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models.log_probs import cross_entropy, token_draws, token_log_probs
from halcyon.models.softmax import Softmax, sampled_tokens
from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES, shardings
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon_api.spec.mesh import ResolvedMesh

BATCH, POSITION, EMBED, VOCAB = hax.make_axes(batch=8, position=12, embed=8, vocab=24)
MESHES = [
    None,
    ResolvedMesh(replica=1, data=1, fsdp=4, tensor=1),
    ResolvedMesh(replica=2, data=1, fsdp=2, tensor=2),
    ResolvedMesh(replica=1, data=1, fsdp=2, context=2, tensor=2),
]
NAMES = ["one-device", "fsdp", "replica-fsdp-tensor", "fsdp-context-tensor"]
ON_MESHES = pytest.mark.parametrize(
    "resolved",
    [
        pytest.param(mesh, id=name, marks=() if name in ("one-device", "fsdp-context-tensor") else pytest.mark.variant)
        for mesh, name in zip(MESHES, NAMES, strict=True)
    ],
)


def textbook(
    features: jax.Array, head: jax.Array, tokens: jax.Array, soft_cap: float | None
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities and log-totals, each [batch, position]."""
    logits = jnp.einsum("bpe,ev->bpv", features.astype(jnp.float32), head.astype(jnp.float32), precision="highest")
    logits = logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)
    log_totals = jax.nn.logsumexp(logits, axis=-1)
    return jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0] - log_totals, log_totals


def preference(log_probs: jax.Array, log_totals: jax.Array) -> jax.Array:
    """A function of them that is no weighted sum: it compares the sums of two rows, and weights the totals."""
    sums = jnp.tanh(log_probs).sum(axis=1)
    return -jnp.log(jax.nn.sigmoid(sums[0] - sums[1])) + 0.01 * jnp.sum(log_totals**2 * log_probs)


def arrays(dtype: str) -> tuple[Any, ...]:
    noise = np.random.default_rng(0)
    features = hax.named(jnp.asarray(noise.standard_normal((8, 12, 8)), dtype), (BATCH, POSITION, EMBED))
    head = hax.named(jnp.asarray(noise.standard_normal((8, 24)), jnp.float32), (EMBED, VOCAB))
    return features, head, hax.named(jnp.asarray(noise.integers(0, 24, (8, 12)), jnp.int32), (BATCH, POSITION))


@ON_MESHES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("logit_bytes", "soft_cap"),
    [
        pytest.param(1, None, id="a-block-a-position"),
        pytest.param(1 << 20, None, id="one-block", marks=pytest.mark.variant),
        pytest.param(1, 2.0, id="soft-cap"),
    ],
)
def test_values_and_gradients_are_those_of_the_textbook(
    resolved: ResolvedMesh | None, dtype: str, logit_bytes: int, soft_cap: float | None
) -> None:
    features, head, tokens = arrays(dtype)

    def ours(features: Any, head: Any, tokens: Any) -> Any:
        found = token_log_probs(features, head, tokens, Softmax(EMBED, VOCAB, soft_cap), max_logit_bytes=logit_bytes)
        return preference(found.log_probs.array, found.log_totals.array), found

    def theirs(features: Any, head: Any) -> Any:
        found = textbook(features.array, head.array.astype(dtype), tokens.array, soft_cap)
        return preference(*found), found

    (expected, by_token), by_arguments = jax.value_and_grad(theirs, (0, 1), has_aux=True)(features, head)
    gradient = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))
    if resolved is None:
        (value, found), gradients = gradient(features, head, tokens)
    else:
        mesh = build_mesh(resolved, jax.devices()[: resolved.devices])
        placed = [jax.device_put(each, shardings(each, mesh, COMPUTE_AXES)) for each in (features, tokens)]
        with computing(mesh):
            (value, found), gradients = gradient(
                placed[0], jax.device_put(head, shardings(head, mesh, PARAMETER_AXES)), placed[1]
            )
    exact = dtype == "float32"
    assert float(value) == pytest.approx(float(expected), rel=1e-5 if exact else 1e-3)
    for mine, plain in zip((found.log_probs.array, found.log_totals.array), by_token, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-5)
    for mine, plain in zip(gradients, by_arguments, strict=True):
        assert mine.dtype == plain.dtype
        left, right = np.asarray(mine.rearrange(plain.axes).array, np.float32), np.asarray(plain.array, np.float32)
        np.testing.assert_allclose(
            left, right, rtol=1e-4 if exact else 0.05, atol=(1e-5 if exact else 0.02) * np.abs(right).max()
        )


@ON_MESHES
@pytest.mark.parametrize(
    ("z_loss", "soft_cap"), [(0.0, None), pytest.param(0.1, None, marks=pytest.mark.variant), (0.1, 2.0)]
)
def test_cross_entropy_and_z_loss_equal_weighted_sums_of_log_probs(
    resolved: ResolvedMesh | None, z_loss: float, soft_cap: float | None
) -> None:
    """The loss that computes its gradient in the forward pass is a weighted sum of the log-probabilities."""
    features, head, tokens = arrays("float32")
    weights = hax.named(jnp.asarray(np.random.default_rng(1).random((8, 12)), jnp.float32), (BATCH, POSITION))

    def fused(features: Any, head: Any) -> jax.Array:
        return (
            3.0
            * cross_entropy(
                features, head, tokens, weights, Softmax(EMBED, VOCAB, soft_cap), z_loss=z_loss, max_logit_bytes=1000
            ).total
        )

    def summed(features: Any, head: Any) -> jax.Array:
        found = token_log_probs(features, head, tokens, Softmax(EMBED, VOCAB, soft_cap), max_logit_bytes=1000)
        losses = z_loss * found.log_totals * found.log_totals - found.log_probs
        return 3.0 * hax.sum(losses * weights).scalar()

    def both() -> list[Any]:
        return [jax.jit(jax.value_and_grad(each, (0, 1)))(features, head) for each in (fused, summed)] + [
            jax.jit(fused)(features, head)
        ]

    if resolved is None:
        one, other, alone = both()
    else:
        with computing(build_mesh(resolved, jax.devices()[: resolved.devices])):
            one, other, alone = both()
    assert float(alone) == pytest.approx(float(one[0]), rel=1e-6)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


@ON_MESHES
@pytest.mark.parametrize(
    "rows", [pytest.param(13, marks=pytest.mark.variant), 11], ids=["a-part-of-padding-and-tokens", "a-part-of-padding"]
)
@pytest.mark.parametrize(("z_loss", "soft_cap"), [(0.0, None), (0.1, 2.0)])
def test_rows_that_pad_the_vocabulary_change_nothing(
    resolved: ResolvedMesh | None, rows: int, z_loss: float, soft_cap: float | None
) -> None:
    """Values and gradients are those of the head without these rows, whatever they hold; they themselves get no
    gradient.
    """
    features, head, tokens = arrays("float32")
    tokens = hax.named(tokens.array % rows, tokens.axes)
    weights = hax.named(jnp.asarray(np.random.default_rng(1).random((8, 12)), jnp.float32), (BATCH, POSITION))
    padded, exact = Softmax(EMBED, VOCAB, soft_cap, rows), Softmax(EMBED, VOCAB.resize(rows), soft_cap)

    def fused(features: Any, head: Any, softmax: Softmax) -> jax.Array:
        return cross_entropy(features, head, tokens, weights, softmax, z_loss=z_loss, max_logit_bytes=1000).total

    def of_log_probs(features: Any, head: Any, softmax: Softmax) -> jax.Array:
        found = token_log_probs(features, head, tokens, softmax, max_logit_bytes=1000)
        return preference(found.log_probs.array, found.log_totals.array)

    def both(head: Any, softmax: Softmax) -> list[Any]:
        return [
            jax.jit(jax.value_and_grad(each, (0, 1)), static_argnums=2)(features, head, softmax)
            for each in (fused, of_log_probs)
        ]

    expected = both(head["vocab", hax.ds(0, rows)], exact)
    large = hax.named(head.array.at[:, rows:].set(30.0), head.axes)
    if resolved is None:
        found = both(large, padded)
    else:
        with computing(build_mesh(resolved, jax.devices()[: resolved.devices])):
            found = both(large, padded)
    for (value, (by_features, by_head)), (exact_value, exact_gradients) in zip(found, expected, strict=True):
        assert float(value) == pytest.approx(float(exact_value), rel=1e-5)
        by_head = np.asarray(by_head.rearrange(head.axes).array)
        assert not by_head[:, rows:].any()
        for left, right in zip((by_features.array, by_head[:, :rows]), (x.array for x in exact_gradients), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


@ON_MESHES
def test_draws_are_the_greatest_of_logits_and_noise_on_every_mesh(resolved: ResolvedMesh | None) -> None:
    """The last four tokens of the vocabulary have no noise: they are never drawn."""
    features, head, tokens = arrays("float32")
    known, softmax = VOCAB.size - 4, Softmax(EMBED, VOCAB, None)
    keys = jax.random.bits(jax.random.key(3), (BATCH.size, POSITION.size, 2))

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.wrap_key_data(key), (known,))

    def drawn(features: Any, head: Any, tokens: Any, keys: jax.Array) -> Any:
        found = token_draws(features, head, tokens, softmax, hax.named(keys, (BATCH, POSITION, "key")), noise)
        return [x.rearrange((BATCH, POSITION)).array for x in (found.tokens, found.log_probs)]

    if resolved is None:
        found = jax.jit(drawn)(features, head, tokens, keys)
    else:
        with computing(build_mesh(resolved, jax.devices()[: resolved.devices])):
            found = jax.jit(drawn)(features, head, tokens, keys)
    logits = hax.dot(features, head, axis=EMBED).rearrange((BATCH, POSITION, VOCAB)).array[..., :known]
    assert np.array_equal(found[0], jnp.argmax(logits + jax.vmap(jax.vmap(noise))(keys), -1))
    log_probs = token_log_probs(features, head, tokens, softmax).log_probs.rearrange((BATCH, POSITION)).array
    np.testing.assert_allclose(found[1], log_probs, rtol=1e-5, atol=1e-6)


def test_a_row_that_pads_the_vocabulary_is_never_sampled() -> None:
    features, head, _ = arrays("float32")
    large = hax.named(head.array.at[:, 11:].set(30.0), head.axes)
    keys = jax.vmap(jax.random.key)(jnp.arange(8))
    found = sampled_tokens(features, large, keys, Softmax(EMBED, VOCAB, tokens=11))
    assert np.asarray(found).max() < 11
    assert len(np.unique(found)) > 5


def test_logits_are_never_all_in_memory_at_once() -> None:
    batch, position, vocab = BATCH.resize(8), POSITION.resize(256), VOCAB.resize(4096)
    features, head = hax.zeros((batch, position, EMBED)), hax.zeros((EMBED, vocab))

    def loss(features: Any, head: Any) -> jax.Array:
        tokens = hax.zeros((batch, position), jnp.int32)
        return jnp.sum(
            token_log_probs(features, head, tokens, Softmax(EMBED, vocab), max_logit_bytes=1 << 21).log_probs.array ** 2
        )

    scratch = jax.jit(jax.grad(loss, (0, 1))).lower(features, head).compile().memory_analysis().temp_size_in_bytes
    assert scratch < 8 * 256 * 4096 * 4 / 2
