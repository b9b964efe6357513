"""What the losses over a vocabulary share: the logits of a block of positions on one device, and the gradients of
features and head from those of the logits. `halcyon.models.log_probs` says why there are blocks.
"""

import math
from typing import Any, NamedTuple

import haliax as hax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import POSITION, with_array
from halcyon.models.partition import Shard, parts_of
from halcyon.models.parts.weight import product
from halcyon.models.softmax import Softmax, block_count, most_logit_bytes

Pair = tuple[NamedArray, NamedArray]
"""Such as the gradients of the loss with respect to features and head."""


def blocks_of(targets: NamedArray, vocab: Axis, max_logit_bytes: int | None) -> int:
    """The number of blocks of positions; see `halcyon.models.log_probs.token_log_probs`."""
    here = math.prod(axis.size // parts_of(axis) for axis in (*targets.axes, vocab)) * 4
    position = targets.resolve_axis(POSITION)
    return block_count(position.size // parts_of(position), here, max_logit_bytes or most_logit_bytes())


class Block(NamedTuple):
    """The softmax at a block of positions of one device. The axis ``part`` is this device's part of the vocabulary."""

    logits: NamedArray
    """(..., position, part)."""
    powers: NamedArray
    """Exponentials of the logits minus their maximum: (..., position, part)."""
    total: NamedArray
    """The sum of `powers` over the whole vocabulary: (..., position)."""
    log_totals: NamedArray
    """Logarithm of the softmax's denominator."""
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
        """(..., position, part)."""
        return self.powers / self.total


def logits_of(
    shard: Shard, features: NamedArray, head: NamedArray, softmax: Softmax
) -> tuple[NamedArray, NamedArray | None]:
    """The logits of one device, (..., position, part), and the `Block.slope` of them."""
    cap = softmax.soft_cap
    logits, slope = product(softmax.products, "forward", features, head, (softmax.embed,), into=jnp.float32), None
    if cap is not None:
        share = hax.tanh(logits / cap)
        logits, slope = cap * share, 1.0 - share * share
    return softmax.masked(logits, *shard.part(softmax.vocab)), slope


def block_of(shard: Shard, features: NamedArray, targets: NamedArray, head: NamedArray, softmax: Softmax) -> Block:
    """The softmax of one device at some positions, with their targets."""
    vocab = softmax.vocab
    part, first = shard.part(vocab)
    logits, slope = logits_of(shard, features, head, softmax)
    greatest = with_array(targets, shard.max_over(vocab, hax.max(logits, part).array))
    powers = hax.exp(logits - greatest)
    total = with_array(targets, shard.sum_over(vocab, hax.sum(powers, part).array))
    hit: Any = hax.equal((targets - first).broadcast_axis(part), hax.arange(part))
    of_target = with_array(targets, shard.sum_over(vocab, hax.sum(hax.where(hit, logits, 0.0), part).array))
    return Block(logits, powers, total, greatest + hax.log(total), of_target, hit, slope)


def stored_last(shard: Shard, softmax: Softmax) -> tuple[Axis, Axis]:
    """Axes of the head's gradient, embed last: on TPUs, for some vocabulary sizes, XLA reduce-scatters only over the
    last axis.
    """
    return shard.part(softmax.vocab)[0], softmax.embed


def by_factors(
    by_logits: NamedArray, features: NamedArray, head: NamedArray, softmax: Softmax, order: tuple[Axis, Axis]
) -> Pair:
    """Gradients with respect to features and head, from that with respect to the logits; the head's is a float32
    sum.
    """
    by_logits = by_logits.astype(features.dtype)
    by_features = product(softmax.products, "inputs", by_logits, head, (order[0],), order=features.axes)
    outer = tuple(axis for axis in features.axes if axis.name != softmax.embed.name)
    return by_features, product(
        softmax.products, "parameters", features, by_logits, outer, into=jnp.float32, order=order
    )


def completed(shard: Shard, by_features: NamedArray, by_head: NamedArray, head: NamedArray, softmax: Softmax) -> Pair:
    """Sum both gradients over the devices; of the head's gradient, each device gets the part that it stores."""
    by_features = with_array(by_features, shard.sum_over(softmax.vocab, by_features.array))
    return by_features, shard.reduced(by_head).rearrange(head.axis_names)
