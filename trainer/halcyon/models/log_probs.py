"""Log-probabilities of tokens under a model's output head, computed in blocks of positions.

Logits are the largest array of a small model: (batch, position, vocab) in float32. They are never kept.
`token_log_probs` computes the logits of a block again in the backward pass. `cross_entropy` has the weight of each
token, so the logits determine its gradient with respect to them, up to one factor. Its forward pass computes the
gradients with respect to features and head at once and keeps only these. This takes no more operations than keeping the
logits would. Both functions share the arithmetic of a block.

If a mesh splits the stored head, each device gathers it once, before the first block, and adds up the head's gradient
over its own positions. After the last block, one reduction gives each device its part of the sum.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import cut, joined, with_array
from halcyon.models.logit_blocks import Block, Pair, block_of, blocks_of, by_factors, completed, stored_last
from halcyon.models.partition import Result, Shard, by_device
from halcyon.models.softmax import Softmax


class TokenLogProbs(NamedTuple):
    """The softmax at the given tokens: float32 arrays (..., position)."""

    log_probs: NamedArray
    """Log-probability of each token, in nats."""
    log_totals: NamedArray
    """Logarithm of the softmax's denominator at each position (z-loss keeps it near 0)."""


class TokenDraws(NamedTuple):
    """A draw from the softmax at each position: arrays (..., position)."""

    tokens: NamedArray
    """The tokens that are drawn: int32."""
    log_probs: NamedArray
    """Log-probability of the given tokens, in nats: float32."""


class CrossEntropy(NamedTuple):
    """Weighted sums over all positions: float32 scalars."""

    total: jax.Array
    """Of cross entropy + z_loss x log_total^2. Its gradient is that of both."""
    squared_log_totals: jax.Array
    """Of log_total^2, without a gradient; 0 if z_loss is 0."""


def token_log_probs(
    features: NamedArray,
    head: NamedArray,
    tokens: NamedArray,
    softmax: Softmax,
    *,
    max_logit_bytes: int | None = None,
) -> TokenLogProbs:
    """Log-probability of a token at each position, under ``softmax(head . features)``. Differentiable.

    Args:
        features: (..., position, embed).
        head: Axes vocab and embed, in any order.
        tokens: (..., position) integers.
        softmax: The softmax; `halcyon.models.CausalLM.softmax` of the model.
        max_logit_bytes: Bytes of logits that one device may hold at a time. It decides the number of blocks of
            positions. None: as `halcyon.models.softmax` says.
    """
    found: Any = _log_probs(features, head, tokens, softmax, blocks_of(tokens, softmax.vocab, max_logit_bytes))
    return TokenLogProbs(*found)


def token_draws(
    features: NamedArray,
    head: NamedArray,
    tokens: NamedArray,
    softmax: Softmax,
    keys: NamedArray,
    noise: Callable[[jax.Array], jax.Array],
) -> TokenDraws:
    """A token at each position drawn from ``softmax(head . features)`` by the Gumbel-max trick, and the log-probability
    of given ones as `token_log_probs` computes it. Without a gradient.

    Args:
        features: (..., position, embed).
        head: Axes vocab and embed, in any order.
        tokens: The given ones: (..., position) integers.
        softmax: The softmax.
        keys: (..., position, key).
        noise: Returns the noise of the first tokens of the vocabulary, from a key; others are not drawn.
    """
    blocks = blocks_of(tokens, softmax.vocab, None)

    def of_device(shard: Shard, arguments: _Part, head: NamedArray) -> Pair:
        whole = shard.gathered(head.astype(features.dtype))
        part, first = shard.part(softmax.vocab)

        def noise_of(key: jax.Array) -> jax.Array:
            here = noise(key)
            every = jnp.pad(here, (0, softmax.vocab.size - len(here)), constant_values=-jnp.inf)
            return jax.lax.dynamic_slice(every, (first,), (part.size,))

        def one(given: _Part) -> Pair:
            block = block_of(shard, given[0], given[1], whole, softmax)
            by_key = given[2].array.reshape(-1, given[2].array.shape[-1])
            drawn = jax.lax.optimization_barrier(jax.vmap(noise_of)(by_key)) + block.logits.rearrange(
                (*given[1].axes, part)
            ).array.reshape(-1, part.size)
            greatest = jnp.max(drawn, -1, keepdims=True)
            most = shard.max_over(softmax.vocab, greatest)
            places = jnp.where(drawn == most, -first - jnp.arange(part.size), -softmax.vocab.size)
            found = -shard.max_over(softmax.vocab, jnp.max(places, -1))
            return with_array(given[1], found.reshape(given[1].array.shape)), block.of_target - block.log_totals

        drawn, log_probs = jax.lax.map(one, cut(arguments, blocks))
        return joined(drawn), joined(log_probs)

    results = (Result(tokens.axis_names), Result(tokens.axis_names))
    return TokenDraws(*by_device(of_device, (features, tokens, keys), head, results))


def cross_entropy(
    features: NamedArray,
    head: NamedArray,
    targets: NamedArray,
    weights: NamedArray,
    softmax: Softmax,
    *,
    z_loss: float = 0.0,
    max_logit_bytes: int | None = None,
) -> CrossEntropy:
    """Sum over all positions of weight x (cross entropy + z_loss x log_total^2).

    With z_loss 0 it equals ``-sum(weights * log_probs)`` of `token_log_probs`, and is cheaper to differentiate.

    Args:
        features: (..., position, embed).
        head: Axes vocab and embed, in any order.
        targets: (..., position) integers.
        weights: (..., position) float32. They get no gradient.
        softmax: The softmax; `halcyon.models.CausalLM.softmax` of the model.
        z_loss: Factor of the penalty on the squared logarithm of the softmax's denominator (Chowdhery et al. 2022,
            section 5).
        max_logit_bytes: Bytes of logits that one device may hold at a time. It decides the number of blocks of
            positions. None: as `halcyon.models.softmax` says.
    """
    blocks = blocks_of(targets, softmax.vocab, max_logit_bytes)
    return CrossEntropy(*_cross_entropy(features, head, targets, weights, softmax, z_loss, blocks))


_Sums = tuple[jax.Array, jax.Array, NamedArray]
"""The two sums of `CrossEntropy`, and the gradient with respect to the head."""
_Part = tuple[NamedArray, NamedArray, NamedArray]
"""Features, targets and weights of some positions."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
@jax.named_scope("head")
def _cross_entropy(
    features: NamedArray,
    head: NamedArray,
    targets: NamedArray,
    weights: NamedArray,
    softmax: Softmax,
    z_loss: float,
    blocks: int,
) -> tuple[jax.Array, jax.Array]:
    def of_device(shard: Shard, arguments: _Part, head: NamedArray) -> tuple[jax.Array, jax.Array]:
        whole = shard.gathered(head.astype(features.dtype))

        def one(part: _Part) -> tuple[jax.Array, jax.Array]:
            block = block_of(shard, part[0], part[1], whole, softmax)
            return _weighted_sums(block, part[2], z_loss)

        total, squares = jax.lax.map(one, cut(arguments, blocks))
        return shard.sum_over_batch(jnp.sum(total)), shard.sum_over_batch(jnp.sum(squares))

    return by_device(of_device, (features, targets, weights), head, (Result(), Result()))


@jax.named_scope("head")
def _cross_entropy_forward(
    features: NamedArray,
    head: NamedArray,
    targets: NamedArray,
    weights: NamedArray,
    softmax: Softmax,
    z_loss: float,
    blocks: int,
) -> tuple[tuple[jax.Array, jax.Array], Pair]:
    """The sums, and the gradients of the first one with respect to features and head."""

    def of_device(
        shard: Shard, arguments: _Part, head: NamedArray
    ) -> tuple[jax.Array, jax.Array, NamedArray, NamedArray]:
        whole = shard.gathered(head.astype(features.dtype))
        order = stored_last(shard, softmax)

        def accumulate(sums: _Sums, part: _Part) -> tuple[_Sums, NamedArray]:
            block = block_of(shard, part[0], part[1], whole, softmax)
            by_logits = block.probabilities() - hax.where(block.hit, 1.0, 0.0)
            if z_loss:
                by_logits = by_logits + block.probabilities() * (2 * z_loss * block.log_totals)
            by_features, by_head = by_factors(block.before_cap(by_logits * part[2]), part[0], whole, softmax, order)
            total, squares = _weighted_sums(block, part[2], z_loss)
            return (sums[0] + total, sums[1] + squares, sums[2] + by_head), by_features

        start = (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32), hax.zeros(order, dtype=jnp.float32))
        (total, squares, by_head), by_features = jax.lax.scan(accumulate, start, cut(arguments, blocks))
        gradients = completed(shard, joined(by_features), by_head, head, softmax)
        return (shard.sum_over_batch(total), shard.sum_over_batch(squares), *gradients)

    results = (Result(), Result(), Result(features.axis_names), Result(head.axis_names, parameter=True))
    total, squares, by_features, by_head = by_device(of_device, (features, targets, weights), head, results)
    return (total, squares), (by_features, by_head.astype(head.dtype))


@jax.named_scope("head")
def _cross_entropy_backward(
    softmax: Softmax, z_loss: float, blocks: int, residuals: Pair, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[NamedArray, NamedArray, None, None]:
    del softmax, z_loss, blocks
    (by_features, by_head), cotangent = residuals, cotangents[0]
    return (by_features * cotangent).astype(by_features.dtype), (by_head * cotangent).astype(by_head.dtype), None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@jax.named_scope("head")
def _log_probs(features: NamedArray, head: NamedArray, tokens: NamedArray, softmax: Softmax, blocks: int) -> Pair:
    def of_device(shard: Shard, arguments: Pair, head: NamedArray) -> Pair:
        whole = shard.gathered(head.astype(features.dtype))

        def one(part: Pair) -> Pair:
            block = block_of(shard, *part, whole, softmax)
            return block.of_target - block.log_totals, block.log_totals

        log_probs, log_totals = jax.lax.map(one, cut(arguments, blocks))
        return joined(log_probs), joined(log_totals)

    results = (Result(tokens.axis_names), Result(tokens.axis_names))
    return by_device(of_device, (features, tokens), head, results)


@jax.named_scope("head")
def _log_probs_backward(
    softmax: Softmax,
    blocks: int,
    arguments: tuple[NamedArray, NamedArray, NamedArray],
    cotangents: Pair,
) -> tuple[NamedArray, NamedArray, None]:
    features, head, tokens = arguments

    def of_device(shard: Shard, arguments: tuple[NamedArray, ...], head: NamedArray) -> Pair:
        whole = shard.gathered(head.astype(features.dtype))
        order = stored_last(shard, softmax)

        def accumulate(total: NamedArray, part: tuple[NamedArray, ...]) -> Pair:
            features, tokens, by_log_prob, by_log_total = part
            block = block_of(shard, features, tokens, whole, softmax)
            by_logits = hax.where(block.hit, 1.0, 0.0) * by_log_prob + block.probabilities() * (
                by_log_total - by_log_prob
            )
            by_features, by_head = by_factors(block.before_cap(by_logits), features, whole, softmax, order)
            return total + by_head, by_features

        by_head, by_features = jax.lax.scan(accumulate, hax.zeros(order, dtype=jnp.float32), cut(arguments, blocks))
        return completed(shard, joined(by_features), by_head, head, softmax)

    results = (Result(features.axis_names), Result(head.axis_names, parameter=True))
    by_features, by_head = by_device(of_device, (features, tokens, *cotangents), head, results)
    return by_features, by_head.astype(head.dtype), None


_log_probs.defvjp(lambda *given: (_log_probs(*given), given[:3]), _log_probs_backward)


def _weighted_sums(block: Block, weights: NamedArray, z_loss: float) -> tuple[jax.Array, jax.Array]:
    """The sums of `CrossEntropy` over the positions of a block."""
    losses = block.log_totals - block.of_target
    if not z_loss:
        return hax.sum(losses * weights).scalar(), jnp.zeros((), jnp.float32)
    squares = block.log_totals * block.log_totals
    return hax.sum((losses + z_loss * squares) * weights).scalar(), hax.sum(squares * weights).scalar()
