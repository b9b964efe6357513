"""The softmax over the vocabulary: the limit of its logits, the rows that only pad the vocabulary, samples of it, and
the memory of its logits.

A model's vocabulary is that of its tokenizer, rounded up so that a mesh divides it. The rows beyond are no tokens.
Their logits are minus infinity, so they have no probability, and neither features nor head get a gradient from them.
Their parameters are zero before the first step and stay zero, whatever the update rule (`without_padding`). So a run
trains as it would without the padding. `halcyon.models.CausalLM.tokens` is the one place that knows where the padding
begins.

**Memory.** Each block of the loss reads and writes the float32 gradient of the whole head, so many small blocks move
many bytes. A large block takes memory while all activations of the step are kept. So a block may take a share of the
device's memory (docs/design/numbers.md has the bytes of a step). The share is rounded down to a power of two, so that a
corrected size in the hardware table does not change the order in which a run adds up the gradient. The device belongs
to the run, not to a model. So the code that traces the model names it by `logits_for`.
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import POSITION, VOCAB, elementwise, is_named, with_array
from halcyon.models.partition import parts_of
from halcyon.models.parts.weight import contract
from halcyon_api.hardware import row_of_device
from halcyon_api.spec.narrow_products import NarrowProducts

Tree = TypeVar("Tree")


LEAST_LOGIT_BYTES = 1 << 28
"""Bytes of logits on devices with little memory, and where the memory is not known, as on processors."""
MOST_LOGIT_BYTES = 1 << 31
"""With larger blocks, the bytes that each block repeats are few beside those of the logits themselves."""
_SHARE = 32
"""A block has at most this part of the memory.

The loss holds its logits in float32, and their gradient in the compute type.
"""


class Softmax(NamedTuple):
    """What turns the products of features and head into probabilities. All fields are static."""

    embed: Axis
    """The axis that a logit is summed over."""
    vocab: Axis
    """The axis of the softmax, with its padding."""
    soft_cap: float | None = None
    """Smooth limit of the logits: ``cap * tanh(logit / cap)`` (Gemma Team 2024). None: no limit."""
    tokens: int | None = None
    """Tokens of the vocabulary without its padding. None: it has none, and the mask costs nothing."""
    products: NarrowProducts | None = None
    """Types of the factors of the products of features and head, in a loss. None: that of the features."""

    def logits(self, products: NamedArray) -> NamedArray:
        """The logits (..., vocab) of products (..., vocab): limited, and minus infinity for the padding."""
        return self.masked(
            products if self.soft_cap is None else self.soft_cap * hax.tanh(products / self.soft_cap), self.vocab
        )

    def masked(self, logits: NamedArray, part: Axis, first: jax.Array | int = 0) -> NamedArray:
        """`logits` with minus infinity for the padding.

        Args:
            logits: (..., part).
            part: The vocabulary, or one device's part of it.
            first: Index of the part's first row in the vocabulary.
        """
        if self.tokens is None:
            return logits
        is_token: Any = hax.arange(part) + first < self.tokens
        return elementwise(lambda logits, is_token: jnp.where(is_token, logits, -jnp.inf), logits, is_token)


def at_temperature(features: NamedArray, softmax: Softmax, temperature: float) -> tuple[NamedArray, Softmax]:
    """Features and softmax whose logits are divided by a temperature."""
    if temperature == 1:
        return features, softmax
    cap = softmax.soft_cap  # cap tanh(x / cap) / t = (cap / t) tanh((x / t) / (cap / t))
    divided = with_array(features, (features.array / temperature).astype(features.dtype))
    return divided, softmax._replace(soft_cap=None if cap is None else cap / temperature)


def without_padding(tree: Tree, tokens: int | None) -> Tree:
    """`tree` with zeros in the rows of its arrays that pad the vocabulary.

    Args:
        tree: A tree of named arrays, such as a model or the updates of its parameters.
        tokens: See `Softmax.tokens`.
    """
    if tokens is None:
        return tree

    def one(leaf: Any) -> Any:
        if not is_named(leaf) or VOCAB not in leaf.axis_names:
            return leaf
        at = leaf.axis_names.index(VOCAB)
        rows = jax.lax.broadcasted_iota(jnp.int32, leaf.array.shape, at)
        return with_array(leaf, jnp.where(rows < tokens, leaf.array, jnp.zeros((), leaf.array.dtype)))

    return jax.tree.map(one, tree, is_leaf=is_named)


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


def logit_bytes(memory_bytes: int | None) -> int:
    """Bytes of logits that a device holds at a time.

    Args:
        memory_bytes: Its memory. None: not known.
    """
    if memory_bytes is None:
        return LEAST_LOGIT_BYTES
    share = 1 << (memory_bytes // _SHARE).bit_length() - 1
    return min(MOST_LOGIT_BYTES, max(LEAST_LOGIT_BYTES, share))


def block_count(positions: int, bytes_of_all: int, most: int) -> int:
    """The smallest number of equal blocks of positions whose logits have at most `most` bytes each.

    Args:
        positions: Positions on this device. The number of blocks divides them.
        bytes_of_all: Bytes of the logits of all of them, in all rows.
        most: Most bytes of a block. A block has one position at least.
    """
    wanted = max(1, min(-(-bytes_of_all // most), positions))
    return next(count for count in range(wanted, positions + 1) if positions % count == 0)


_most: ContextVar[int | None] = ContextVar("halcyon-logit-bytes", default=None)


@contextlib.contextmanager
def logits_for(device: Any) -> Iterator[None]:
    """Trace models in this context with blocks of logits for this ``jax.Device``."""
    token = _most.set(_of_device(device))
    try:
        yield
    finally:
        _most.reset(token)


def most_logit_bytes() -> int:
    """Bytes of logits that a device of the context holds at a time.

    Without a context: the first device of this process.
    """
    return _most.get() or _of_device(jax.devices()[0])


def _of_device(device: Any) -> int:
    row = row_of_device(device.device_kind)
    return logit_bytes(None if row is None else row.memory_bytes)
