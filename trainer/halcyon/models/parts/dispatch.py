"""Sends the tokens of a device to the devices of their experts, and the results back. No token is dropped.

The choices of a device's tokens are sorted by expert. If the mesh splits the experts, the sorted rows are sent in
rounds: in each round a device sends at most `capacity` rows to each other device, so memory grows with the tokens of a
device and not with those of the batch. With a balanced router one round is enough. If many tokens choose the experts of
one device, further rounds follow; rounds without rows are skipped by all devices together. The backward pass computes
each round again, because it would otherwise keep the rows of all rounds.

The copies of rows to other places have gradients that are copies too. The gradient of a look-up is a sum at random
places, which XLA computes slowly and, on some platforms, in an order that varies. Here each row of the result, and each
row of the argument, knows its counterpart, so the gradient is a look-up as well.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from haliax import Axis

from halcyon.models.axes import BATCH, POSITION
from halcyon.models.partition import Shard, unroll
from halcyon.models.parts.grouped_product import rows_at

SLACK = 2
"""Rows that a device sends to another one in a round, relative to an even distribution over the devices."""

Compute = Callable[[jax.Array, jax.Array], jax.Array]
"""Rows sorted by expert, and the number of rows of each expert, to the outputs of the rows."""


def dispatched(
    shard: Shard, experts: Axis, rows: jax.Array, chosen: jax.Array, weights: jax.Array, compute: Compute
) -> jax.Array:
    """The weighted sum of the outputs of each token's experts: float32 [token, feature].

    Args:
        shard: The device.
        experts: All experts.
        rows: [token, feature].
        chosen: int32 [token, choice]: the experts of each token.
        weights: float32 [token, choice].
        compute: The experts of this device.
    """
    tokens, choices = chosen.shape
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    places = jnp.argsort(order)
    outputs = _computed(shard, experts, copied(rows, order, places, choices), flat[order], compute)
    of_token = moved(outputs, places, order).reshape(tokens, choices, -1).astype(jnp.float32)
    return jnp.sum(of_token * weights[..., None], 1)


def _computed(shard: Shard, experts: Axis, rows: jax.Array, expert_of: jax.Array, compute: Compute) -> jax.Array:
    """The outputs of the experts for rows that are sorted by expert: [row, feature]."""
    mine, _ = shard.part(experts)
    devices, count = experts.size // mine.size, len(rows)
    if devices == 1:
        return compute(rows, _sizes(expert_of, experts.size))
    capacity = min(count, -(-SLACK * count // devices))
    rounds = -(-count // capacity)
    begins = _first(expert_of, jnp.arange(devices + 1) * mine.size)
    device_of = expert_of // mine.size
    waiting = jnp.arange(count) - begins[device_of]  # rows before each row for the same device

    def one_round(rows: jax.Array, number: jax.Array | int) -> jax.Array:
        sources = begins[:-1, None] + number * capacity + jnp.arange(capacity)
        sources = jnp.where(sources < begins[1:, None], sources, count).reshape(-1)
        place = waiting - number * capacity
        targets = jnp.where((place >= 0) & (place < capacity), device_of * capacity + place, devices * capacity)
        expert = jnp.take(expert_of % mine.size, sources, mode="fill", fill_value=mine.size)
        came, expert = shard.exchanged(experts, moved(rows, sources, targets)), shard.exchanged(experts, expert)
        order = jnp.argsort(expert, stable=True)
        back = jnp.argsort(order)
        outputs = compute(moved(came, order, back), _sizes(expert[order], mine.size))
        return moved(shard.exchanged(experts, moved(outputs, back, order)), targets, sources)

    if rounds == 1:
        return one_round(rows, 0)
    # All devices skip the same rounds: those that share parameters gather them together in each round.
    most = shard.max_over(Axis(POSITION, 1), shard.max_over(Axis(BATCH, 1), jnp.max(jnp.diff(begins))))

    def if_needed(rows: jax.Array, number: jax.Array) -> jax.Array:
        return jax.lax.cond(number * capacity < most, one_round, lambda rows, _: jnp.zeros_like(rows), rows, number)

    # Around the condition: inside of it, the rows would be kept once for each round.
    again = jax.checkpoint(if_needed, prevent_cse=unroll(rounds))

    def step(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        return total + again(rows, number), None

    return jax.lax.scan(step, jnp.zeros_like(rows), jnp.arange(rounds), unroll=unroll(rounds))[0]


def _sizes(expert_of: jax.Array, experts: int) -> jax.Array:
    """The number of rows of each expert, from the sorted experts of the rows: int32 [expert].

    Rows of higher numbers do not count.
    """
    return jnp.diff(_first(expert_of, jnp.arange(experts + 1))).astype(jnp.int32)


def _first(expert_of: jax.Array, experts: jax.Array) -> jax.Array:
    """The first row of each of these experts, or of a later one.

    A comparison of all pairs is one kernel; a binary search is a loop.
    """
    return jnp.searchsorted(expert_of, experts, method="compare_all")


@jax.custom_vjp
def moved(rows: jax.Array, sources: jax.Array, targets: jax.Array) -> jax.Array:
    """The rows at `sources`; zeros where a source is not an index of a row.

    Args:
        rows: [row, feature].
        sources: Integers [place]: the row of each place. No row may have two places.
        targets: Integers [row]: the place of each row; the number of places or more for a row without a place.

    Returns:
        [place, feature].
    """
    del targets
    return rows_at(rows, sources)


def _moved_backward(targets: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    return rows_at(cotangent, targets), None, None


moved.defvjp(lambda rows, sources, targets: (rows_at(rows, sources), targets), _moved_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def copied(rows: jax.Array, sources: jax.Array, targets: jax.Array, copies: int) -> jax.Array:
    """The rows at ``sources // copies``. Gradients of the copies of a row are added up in float32.

    Args:
        rows: [row, feature].
        sources: Integers [place]: a permutation of the places.
        targets: Integers [place]: the inverse of `sources`.
        copies: The number of places divided by the number of rows.

    Returns:
        [place, feature].
    """
    del targets
    return rows_at(rows, sources // copies)


def _copied_backward(copies: int, targets: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    of_row = rows_at(cotangent, targets).reshape(-1, copies, cotangent.shape[-1])
    return jnp.sum(of_row.astype(jnp.float32), 1).astype(cotangent.dtype), None, None


copied.defvjp(lambda rows, sources, targets, copies: (rows_at(rows, sources // copies), targets), _copied_backward)
