"""The gated delta rule (Yang et al. 2024, "Gated Delta Networks"), in chunks of positions.

A head keeps a matrix S of key features by value features, its state. At each position, with key k, value v, query q,
decay a and rate b:

    S = a S
    S = S + k (b (v - S^T k))^T
    o = S^T q

Position by position this is a loop over the whole sequence. In chunks of C positions it is a loop over the chunks, with
matrix products inside each. Within a chunk, the corrections ``u = b (v - S^T k)`` depend on each other through a unit
lower triangular system (the UT transform of Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule",
section 3). It is inverted by blocks, from blocks of one row on: the inverse of two neighbouring blocks is two products.

A state begins with zeros at the start of each segment. All arithmetic is float32, and the state too.
"""

import functools

import jax
import jax.numpy as jnp

CHUNK = 64
"""Positions of a chunk; a power of two."""

_dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@jax.named_scope("delta_rule")
def delta_rule(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array,
    rate: jax.Array,
    starts: jax.Array | None = None,
    *,
    state: jax.Array | None = None,
    chunk: int = CHUNK,
) -> tuple[jax.Array, jax.Array]:
    """The outputs of all positions, and the last state. A position with a decay and a rate of 0 changes no state.

    Args:
        query: float32 [..., key head, position, key feature], scaled.
        key: float32, like `query`, of length 1.
        value: float32 [..., key head, value head of it, position, value feature].
        log_decay: float32 [..., key head, value head of it, position], at most 0.
        rate: float32, like `log_decay`.
        starts: bool [..., position]: True where a segment starts. Its leading dimensions are those before the heads.
            None: one segment.
        state: The state before the first position: float32 [..., key head, value head of it, key feature, value
            feature]. None: zeros.
        chunk: Positions of a chunk; a power of two.

    Returns:
        float32, like `value`, and a state, like `state`.
    """
    positions = key.shape[-2]
    chunk = min(chunk, 1 << (positions - 1).bit_length())
    begun = jnp.zeros(positions, jnp.int32) if starts is None else starts.astype(jnp.int32)[..., None, None, :]
    # Positions that fill up the last chunk have a key of zero, so they change nothing.
    query, key, value = (_chunks(x, -2, chunk) for x in (query, key, value))
    log_decay, rate, begun = (_chunks(x, -1, chunk) for x in (log_decay, rate, begun))
    segment = jnp.cumsum(begun, -1)
    decay = jnp.cumsum(log_decay, -1)

    causal = jnp.tril(jnp.ones((chunk, chunk), bool))
    visible = causal & (segment[..., :, None] == segment[..., None, :])
    between = jnp.exp(jnp.where(visible, decay[..., :, None] - decay[..., None, :], -jnp.inf))
    continues = (segment == 0).astype(
        jnp.float32
    )  # the chunk's first positions, up to the first start, see the earlier state
    of_last = (segment == segment[..., -1:]).astype(jnp.float32)

    scores = _dot("...ik,...jk->...ij", key, key)[..., None, :, :, :] * between
    inverse = _inverse(rate[..., :, None] * scores)
    corrections = _dot("...ij,...jv->...iv", inverse, rate[..., None] * value)
    seen = rate * jnp.exp(decay) * continues
    readers = _dot("...ij,...jk->...ik", inverse, seen[..., None] * key[..., None, :, :, :])
    within = _dot("...ik,...jk->...ij", query, key)[..., None, :, :, :] * between
    reading = (jnp.exp(decay) * continues)[..., None] * query[..., None, :, :, :]
    writing = (jnp.exp(decay[..., -1:] - decay) * of_last)[..., None] * key[..., None, :, :, :]
    kept = jnp.exp(decay[..., -1]) * continues[..., -1]

    def step(state: jax.Array, of_chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        corrections, readers, within, reading, writing, kept = of_chunk
        new = corrections - _dot("...ik,...kv->...iv", readers, state)
        out = _dot("...ik,...kv->...iv", reading, state) + _dot("...ij,...jv->...iv", within, new)
        return kept[..., None, None] * state + _dot("...ik,...iv->...kv", writing, new), out

    kept = jnp.broadcast_to(kept, decay.shape[:-1])
    first = jnp.zeros((*value.shape[:-3], key.shape[-1], value.shape[-1]), jnp.float32) if state is None else state
    parts = tuple(jnp.moveaxis(x, -3, 0) for x in (corrections, readers, within, reading, writing))
    last, out = jax.lax.scan(step, first, (*parts, jnp.moveaxis(kept, -1, 0)))
    out = jnp.moveaxis(out, 0, -3)
    return out.reshape(*out.shape[:-3], -1, out.shape[-1])[..., :positions, :], last


def _chunks(x: jax.Array, dimension: int, chunk: int) -> jax.Array:
    """The dimension of positions, counted from the end, as two: the chunk, and the position in it.

    Zeros fill up the last chunk.
    """
    at = x.ndim + dimension
    padding = [(0, -x.shape[at] % chunk if other == at else 0) for other in range(x.ndim)]
    x = jnp.pad(x, padding)
    return x.reshape(*x.shape[:at], -1, chunk, *x.shape[at + 1 :])


def _inverse(below: jax.Array) -> jax.Array:
    """The inverse of ``I + tril(below, -1)``: float32 [..., row, column]."""
    size = below.shape[-1]
    inverse = jnp.ones((*below.shape[:-2], size, 1, 1), jnp.float32)
    width = 1
    while width < size:
        count = size // (2 * width)
        blocks = below.reshape(*below.shape[:-2], count, 2, width, count, 2, width)
        lower = jnp.moveaxis(jnp.diagonal(blocks[..., 1, :, :, 0, :], axis1=-4, axis2=-2), -1, -3)
        pairs = inverse.reshape(*below.shape[:-2], count, 2, width, width)
        upper, last = pairs[..., 0, :, :], pairs[..., 1, :, :]
        corner = -_dot("...ij,...jk,...kl->...il", last, lower, upper)
        top = jnp.concatenate((upper, jnp.zeros_like(upper)), -1)
        inverse = jnp.concatenate((top, jnp.concatenate((corner, last), -1)), -2)
        width *= 2
    return inverse[..., 0, :, :]
