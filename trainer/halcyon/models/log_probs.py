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
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import POSITION, cut, joined, with_array
from halcyon.models.partition import Result, Shard, by_device, parts_of
from halcyon.models.parts.weight import product
from halcyon.models.softmax import Softmax, block_count, most_logit_bytes


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
    found: Any = _log_probs(features, head, tokens, softmax, _block_count(tokens, softmax.vocab, max_logit_bytes))
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
    blocks = _block_count(tokens, softmax.vocab, None)

    def of_device(shard: Shard, arguments: _Part, head: NamedArray) -> _Pair:
        whole = shard.gathered(head.astype(features.dtype))
        part, first = shard.part(softmax.vocab)

        def noise_of(key: jax.Array) -> jax.Array:
            here = noise(key)
            every = jnp.pad(here, (0, softmax.vocab.size - len(here)), constant_values=-jnp.inf)
            return jax.lax.dynamic_slice(every, (first,), (part.size,))

        def one(given: _Part) -> _Pair:
            block = _block(shard, given[0], given[1], whole, softmax)
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
    blocks = _block_count(targets, softmax.vocab, max_logit_bytes)
    return CrossEntropy(*_cross_entropy(features, head, targets, weights, softmax, z_loss, blocks))


def _block_count(targets: NamedArray, vocab: Axis, max_logit_bytes: int | None) -> int:
    """The number of blocks of positions; see `token_log_probs`."""
    here = math.prod(axis.size // parts_of(axis) for axis in (*targets.axes, vocab)) * 4
    position = targets.resolve_axis(POSITION)
    return block_count(position.size // parts_of(position), here, max_logit_bytes or most_logit_bytes())


_Pair = tuple[NamedArray, NamedArray]
"""Such as the gradients of the loss with respect to features and head."""
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
            block = _block(shard, part[0], part[1], whole, softmax)
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
) -> tuple[tuple[jax.Array, jax.Array], _Pair]:
    """The sums, and the gradients of the first one with respect to features and head."""

    def of_device(
        shard: Shard, arguments: _Part, head: NamedArray
    ) -> tuple[jax.Array, jax.Array, NamedArray, NamedArray]:
        whole = shard.gathered(head.astype(features.dtype))
        order = _scattered_last(shard, softmax)

        def accumulate(sums: _Sums, part: _Part) -> tuple[_Sums, NamedArray]:
            block = _block(shard, part[0], part[1], whole, softmax)
            by_logits = block.probabilities() - hax.where(block.hit, 1.0, 0.0)
            if z_loss:
                by_logits = by_logits + block.probabilities() * (2 * z_loss * block.log_totals)
            by_features, by_head = _by_factors(block.before_cap(by_logits * part[2]), part[0], whole, softmax, order)
            total, squares = _weighted_sums(block, part[2], z_loss)
            return (sums[0] + total, sums[1] + squares, sums[2] + by_head), by_features

        start = (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32), hax.zeros(order, dtype=jnp.float32))
        (total, squares, by_head), by_features = jax.lax.scan(accumulate, start, cut(arguments, blocks))
        gradients = _completed(shard, joined(by_features), by_head, head, softmax)
        return (shard.sum_over_batch(total), shard.sum_over_batch(squares), *gradients)

    results = (Result(), Result(), Result(features.axis_names), Result(head.axis_names, parameter=True))
    total, squares, by_features, by_head = by_device(of_device, (features, targets, weights), head, results)
    return (total, squares), (by_features, by_head.astype(head.dtype))


@jax.named_scope("head")
def _cross_entropy_backward(
    softmax: Softmax, z_loss: float, blocks: int, residuals: _Pair, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[NamedArray, NamedArray, None, None]:
    del softmax, z_loss, blocks
    (by_features, by_head), cotangent = residuals, cotangents[0]
    return (by_features * cotangent).astype(by_features.dtype), (by_head * cotangent).astype(by_head.dtype), None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@jax.named_scope("head")
def _log_probs(features: NamedArray, head: NamedArray, tokens: NamedArray, softmax: Softmax, blocks: int) -> _Pair:
    def of_device(shard: Shard, arguments: _Pair, head: NamedArray) -> _Pair:
        whole = shard.gathered(head.astype(features.dtype))

        def one(part: _Pair) -> _Pair:
            block = _block(shard, *part, whole, softmax)
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
    cotangents: _Pair,
) -> tuple[NamedArray, NamedArray, None]:
    features, head, tokens = arguments

    def of_device(shard: Shard, arguments: tuple[NamedArray, ...], head: NamedArray) -> _Pair:
        whole = shard.gathered(head.astype(features.dtype))
        order = _scattered_last(shard, softmax)

        def accumulate(total: NamedArray, part: tuple[NamedArray, ...]) -> _Pair:
            features, tokens, by_log_prob, by_log_total = part
            block = _block(shard, features, tokens, whole, softmax)
            by_logits = hax.where(block.hit, 1.0, 0.0) * by_log_prob + block.probabilities() * (
                by_log_total - by_log_prob
            )
            by_features, by_head = _by_factors(block.before_cap(by_logits), features, whole, softmax, order)
            return total + by_head, by_features

        by_head, by_features = jax.lax.scan(accumulate, hax.zeros(order, dtype=jnp.float32), cut(arguments, blocks))
        return _completed(shard, joined(by_features), by_head, head, softmax)

    results = (Result(features.axis_names), Result(head.axis_names, parameter=True))
    by_features, by_head = by_device(of_device, (features, tokens, *cotangents), head, results)
    return by_features, by_head.astype(head.dtype), None


_log_probs.defvjp(lambda *given: (_log_probs(*given), given[:3]), _log_probs_backward)


class _Block(NamedTuple):
    """The softmax at a block of positions of one device. The axis ``part`` is this device's part of the vocabulary."""

    logits: NamedArray
    """(..., position, part)."""
    powers: NamedArray
    """Exponentials of the logits minus their maximum: (..., position, part)."""
    total: NamedArray
    """The sum of `powers` over the whole vocabulary: (..., position)."""
    log_totals: NamedArray
    of_target: NamedArray
    """Logit of the target: (..., position)."""
    hit: NamedArray
    """True at the target: booleans (..., position, part)."""
    slope: NamedArray | None
    """Derivative of the limited logits with respect to the products: (..., position, part).

    None: they are not limited.
    """

    def before_cap(self, by_logits: NamedArray) -> NamedArray:
        """The gradient with respect to the products, from that with respect to the logits."""
        return by_logits if self.slope is None else by_logits * self.slope

    def probabilities(self) -> NamedArray:
        return self.powers / self.total


def _block(shard: Shard, features: NamedArray, targets: NamedArray, head: NamedArray, softmax: Softmax) -> _Block:
    vocab, cap = softmax.vocab, softmax.soft_cap
    part, first = shard.part(vocab)
    logits, slope = product(softmax.products, "forward", features, head, (softmax.embed,), into=jnp.float32), None
    if cap is not None:
        share = hax.tanh(logits / cap)
        logits, slope = cap * share, 1.0 - share * share
    logits = softmax.masked(logits, part, first)
    greatest = with_array(targets, shard.max_over(vocab, hax.max(logits, part).array))
    powers = hax.exp(logits - greatest)
    total = with_array(targets, shard.sum_over(vocab, hax.sum(powers, part).array))
    hit: Any = hax.equal((targets - first).broadcast_axis(part), hax.arange(part))
    of_target = with_array(targets, shard.sum_over(vocab, hax.sum(hax.where(hit, logits, 0.0), part).array))
    return _Block(logits, powers, total, greatest + hax.log(total), of_target, hit, slope)


def _weighted_sums(block: _Block, weights: NamedArray, z_loss: float) -> tuple[jax.Array, jax.Array]:
    """The sums of `CrossEntropy` over the positions of a block."""
    losses = block.log_totals - block.of_target
    if not z_loss:
        return hax.sum(losses * weights).scalar(), jnp.zeros((), jnp.float32)
    squares = block.log_totals * block.log_totals
    return hax.sum((losses + z_loss * squares) * weights).scalar(), hax.sum(squares * weights).scalar()


def _scattered_last(shard: Shard, softmax: Softmax) -> tuple[Axis, Axis]:
    """Axes of the head's gradient, embed last: on TPUs, for some vocabulary sizes, XLA reduce-scatters only over the
    last axis.
    """
    return shard.part(softmax.vocab)[0], softmax.embed


def _by_factors(
    by_logits: NamedArray, features: NamedArray, head: NamedArray, softmax: Softmax, order: tuple[Axis, Axis]
) -> _Pair:
    """Gradients with respect to features and head, from that with respect to the logits; the head's is a float32
    sum.
    """
    by_logits = by_logits.astype(features.dtype)
    by_features = product(softmax.products, "inputs", by_logits, head, (order[0],), order=features.axes)
    outer = tuple(axis for axis in features.axes if axis.name != softmax.embed.name)
    return by_features, product(
        softmax.products, "parameters", features, by_logits, outer, into=jnp.float32, order=order
    )


def _completed(shard: Shard, by_features: NamedArray, by_head: NamedArray, head: NamedArray, softmax: Softmax) -> _Pair:
    """Sum both gradients over the devices; of the head's gradient, each device gets the part that it stores."""
    by_features = with_array(by_features, shard.sum_over(softmax.vocab, by_features.array))
    return by_features, shard.reduced(by_head).rearrange(head.axis_names)
