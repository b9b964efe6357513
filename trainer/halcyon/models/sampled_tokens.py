"""Samples a token at each position from a model's own distribution, in blocks of positions like the cross entropy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import POSITION
from halcyon.models.logit_memory import block_count, most_logit_bytes
from halcyon.models.partition import parts_of
from halcyon.models.parts.linear import contract
from halcyon.models.softmax import Softmax


def sampled_tokens(features: NamedArray, head: NamedArray, keys: jax.Array, softmax: Softmax) -> jax.Array:
    """One token for each position from ``softmax(head . features)``, by the Gumbel-max trick: int32 [batch, position].

    Args:
        features: (batch, position, embed).
        head: Axes vocab and embed, in any order.
        keys: A random key for each row: [batch]. The number of blocks does not change the tokens.
        softmax: The softmax; `halcyon.models.CausalLM.softmax` of the model.
    """
    embed, vocab = softmax.embed, softmax.vocab
    rows = next(axis for axis in features.axes if axis.name not in (POSITION, embed.name))
    features = features.rearrange((rows.name, POSITION, embed.name))
    positions = features.resolve_axis(POSITION).size
    here = math.prod(axis.size // parts_of(axis) for axis in (rows, features.resolve_axis(POSITION), vocab)) * 4
    blocks = block_count(positions, here, most_logit_bytes())
    length = positions // blocks
    head = head.astype(features.dtype)

    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        part, numbers = block
        named = NamedArray(part, (rows, Axis(POSITION, length), embed))
        logits = softmax.logits(contract(named, head, embed, into=jnp.float32)).rearrange(
            (rows.name, POSITION, vocab.name)
        )

        def of_row(key: jax.Array) -> jax.Array:
            return jax.vmap(
                lambda number: jax.random.gumbel(jax.random.fold_in(key, number), (vocab.size,), jnp.float32)
            )(numbers)

        return jnp.argmax(logits.array + jax.vmap(of_row)(keys), axis=-1).astype(jnp.int32)

    cut = jnp.moveaxis(features.array.reshape(rows.size, blocks, length, embed.size), 1, 0)
    found = jax.lax.map(one, (cut, jnp.arange(positions).reshape(blocks, length)))
    return jnp.moveaxis(found, 0, 1).reshape(rows.size, positions)
