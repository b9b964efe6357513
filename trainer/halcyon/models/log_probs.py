"""Next-token loss as a weighted sum and its weights, so that parts of a batch add up exactly.

The step divides the sum of all parts once by the sum of all weights: microbatches, packing and padding then give the full batch's loss,
where a mean of means would not.

Logits are the largest array of a small model: (batch, position, vocab) in float32. They are never kept. The gradient of the loss by the
logits is known as soon as the logits are, up to the factor that comes from above, so the forward pass of differentiation computes it at
once, block by block of positions, and keeps only its products: the gradients by the features and by the head. That costs no
operation more than keeping the logits would.

Where a mesh splits the head at rest, each device gathers it once, before the first block, and adds up the gradient by it over its own
positions; after the last block one reduction gives each device its part of the sum.
"""

from __future__ import annotations

import functools
import math

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.sharding import PartitionSpec

from halcyon.models.elementwise import with_array
from halcyon.models.model import CausalLM
from halcyon.models.parts.linear import contract
from halcyon.models.position_blocks import cut, joined
from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES, POSITION, shard_count
from halcyon.parallel.by_device import Here, by_device

MAX_LOGIT_BYTES = 1 << 28
"""Logits that a device may hold at a time."""


def next_token_losses(
    model: CausalLM,
    tokens: NamedArray,
    targets: NamedArray,
    weights: NamedArray,
    *,
    segment_ids: NamedArray | None = None,
    compute_dtype: jnp.dtype | type | str = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of `targets`, in nats.

    Args:
        model: The model.
        tokens: (..., position) integers: what the model reads.
        targets: (..., position) integers: the token that follows at each position.
        weights: (..., position) float32: how much each target counts; 0 for padding.
        segment_ids: (..., position) integers; a position sees only its own segment. None: one segment.
        compute_dtype: Type of activations and matrix products. The loss itself is float32.

    Returns:
        The sum of weight x loss over all positions, and the sum of the weights; float32 scalars.
    """
    features = model.features(tokens, segment_ids=segment_ids, compute_dtype=jnp.dtype(compute_dtype))
    weights = weights.astype(jnp.float32)
    return cross_entropy(features, model.head, targets, weights, model.embed, model.vocab), hax.sum(weights).scalar()


def cross_entropy(
    features: NamedArray,
    head: NamedArray,
    targets: NamedArray,
    weights: NamedArray,
    embed: Axis,
    vocab: Axis,
    *,
    max_logit_bytes: int = MAX_LOGIT_BYTES,
) -> jax.Array:
    """Sum over all positions of weight x cross entropy of ``softmax(head . features)``; float32 scalar.

    Args:
        features: (..., position, embed).
        head: vocab and embed, in any order.
        targets: (..., position) integers.
        weights: (..., position) float32. No gradient flows to them.
        embed: What a logit is summed over.
        vocab: What the softmax is over.
        max_logit_bytes: Logits that one device may hold at a time. Positions are split into as many blocks as this takes.
    """
    blocks = _block_count(targets, vocab, max_logit_bytes)
    return _cross_entropy(features, head, targets, weights, embed, vocab, blocks)


def _block_count(targets: NamedArray, vocab: Axis, max_logit_bytes: int) -> int:
    """The least number of equal blocks of positions whose logits fit."""
    here = math.prod(axis.size // shard_count(axis) for axis in (*targets.axes, vocab)) * 4
    positions = targets.resolve_axis(POSITION).size
    wanted = -(-here // max_logit_bytes)
    return next(count for count in range(min(wanted, positions), positions + 1) if positions % count == 0)


_Gradients = tuple[NamedArray, NamedArray]
"""Of the loss, by features and by head."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _cross_entropy(
    features: NamedArray, head: NamedArray, targets: NamedArray, weights: NamedArray, embed: Axis, vocab: Axis, blocks: int
) -> jax.Array:
    def of_device(here: Here, arguments: _Part, head: NamedArray) -> jax.Array:
        whole = here.gathered(head.astype(features.dtype))

        def one(part: _Part) -> jax.Array:
            return _block_loss(here, *part, whole, embed, vocab)[0]

        return here.over_batch(jnp.sum(jax.lax.map(one, cut(arguments, blocks))))

    return by_device(of_device, (features, targets, weights), head, lambda here: PartitionSpec())


_Part = tuple[NamedArray, NamedArray, NamedArray]
"""Features, targets and weights of some positions."""


def _cross_entropy_forward(
    features: NamedArray, head: NamedArray, targets: NamedArray, weights: NamedArray, embed: Axis, vocab: Axis, blocks: int
) -> tuple[jax.Array, _Gradients]:
    """The loss, and its gradients by features and head."""

    def of_device(here: Here, arguments: _Part, head: NamedArray) -> tuple[jax.Array, NamedArray, NamedArray]:
        whole = here.gathered(head.astype(features.dtype))
        # The axis that is scattered comes last: for some sizes of the vocabulary XLA has no reduce-scatter over another one on TPUs.
        order = (here.part(vocab)[0], embed)

        def accumulate(total: tuple[jax.Array, NamedArray], part: _Part) -> tuple[tuple[jax.Array, NamedArray], NamedArray]:
            loss, by_logits = _block_loss(here, *part, whole, embed, vocab)
            by_logits = by_logits.astype(features.dtype)
            by_features = contract(by_logits, whole, vocab.name, order=part[0].axes)
            outer = tuple(axis for axis in part[0].axes if axis.name != embed.name)
            by_head = contract(part[0], by_logits, outer, into=jnp.float32, order=order)
            return (total[0] + loss, total[1] + by_head), by_features

        start = (jnp.zeros((), jnp.float32), hax.zeros(order, dtype=jnp.float32))
        (loss, by_head), by_features = jax.lax.scan(accumulate, start, cut(arguments, blocks))
        by_features = joined(by_features)
        return (
            here.over_batch(loss),
            with_array(by_features, here.over(vocab, by_features.array)),
            here.reduced(by_head).rearrange(head.axis_names),
        )

    def specs(here: Here) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
        return PartitionSpec(), here.spec(features, COMPUTE_AXES), here.spec(head, PARAMETER_AXES)

    loss, by_features, by_head = by_device(of_device, (features, targets, weights), head, specs)
    return loss, (by_features, by_head.astype(head.dtype))


def _cross_entropy_backward(
    embed: Axis, vocab: Axis, blocks: int, residuals: _Gradients, cotangent: jax.Array
) -> tuple[NamedArray, NamedArray, None, None]:
    del embed, vocab, blocks
    by_features, by_head = residuals
    return (by_features * cotangent).astype(by_features.dtype), (by_head * cotangent).astype(by_head.dtype), None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _block_loss(
    here: Here, features: NamedArray, targets: NamedArray, weights: NamedArray, head: NamedArray, embed: Axis, vocab: Axis
) -> tuple[jax.Array, NamedArray]:
    """Loss of some positions of this device, and its gradient by their logits."""
    part, first = here.part(vocab)
    logits = contract(features, head, embed, into=jnp.float32)
    greatest = with_array(weights, here.greatest_over(vocab, hax.max(logits, part).array))
    powers = hax.exp(logits - greatest)
    total = with_array(weights, here.over(vocab, hax.sum(powers, part).array))
    hit = hax.equal((targets - first).broadcast_axis(part), hax.arange(part))
    of_target = with_array(weights, here.over(vocab, hax.sum(hax.where(hit, logits, 0.0), part).array))
    loss = hax.sum((greatest + hax.log(total) - of_target) * weights).scalar()
    return loss, (powers / total - hax.where(hit, 1.0, 0.0)) * weights
