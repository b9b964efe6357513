"""Attention by *splash attention*, JAX's Pallas kernel for TPUs, which skips the blocks that the mask hides.

The kernel reads from tables which blocks to compute. JAX makes them before the program runs, without the segments,
which the kernel only compares inside of each block. `_narrowed` takes the blocks of other segments out of the tables
when the program runs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import HEAD_SIZE, KEY_POSITION, POSITION
from halcyon.models.partition import Result, Shard, by_device
from halcyon.models.parts.attention_blocks import AttentionShape, CallArrays
from halcyon.models.parts.kernel_attention import KernelMask, Layout, result_names, rows_of
from halcyon.models.parts.masks import shared_blocks
from halcyon.models.remat import ATTENTION

LANES = 128
"""Lengths must be multiples of this number: the kernel's blocks are."""


def attend_by_splash(given: CallArrays, mask: KernelMask, form: AttentionShape, *, interpret: bool) -> NamedArray:
    """See `halcyon.models.parts.attention.attention`.

    Args:
        given: The arrays.
        mask: Their mask.
        form: The axes; its block is the largest one.
        interpret: Run the kernel's program without a TPU.
    """
    # Only TPUs use the kernel.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    shape = (form.position.size, form.key_position.size)
    queries, keys = (
        max(size for size in (LANES, 2 * LANES, 4 * LANES) if length % size == 0 and size <= max(form.block, LANES))
        for length in shape
    )
    blocks = splash_attention_kernel.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_kv_compute=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_kv_dkv_compute=keys,
        block_q_dq=queries,
        block_kv_dq=keys,
    )

    layout, names = Layout.of(given.query, given.key), result_names(given.query, form)

    def of_device(shard: Shard, given: Any, parameters: tuple[()]) -> NamedArray:
        del shard, parameters
        query, key, value, segments, sinks = given
        arrays = (
            layout.array(query, layout.of_queries, POSITION, HEAD_SIZE),
            layout.array(key, layout.of_keys, KEY_POSITION, HEAD_SIZE),
            layout.array(value, layout.of_keys, KEY_POSITION, form.value_size.name),
        )
        rows, heads = arrays[0].shape[:2]
        kernel: Any = splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([_mask(mask, shape)] * heads),
            block_sizes=blocks,
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=ATTENTION,
            attn_logits_soft_cap=form.soft_cap,
            interpret=interpret,
        )
        ids = None
        if segments is not None:  # Then there is one key for each query, and their blocks are equal.
            of_queries, of_keys = segments.of_queries, segments.of_keys
            ids = rows_of(of_queries, rows), rows_of(of_queries if of_keys is None else of_keys, rows)
            kernel = _narrowed(kernel, shared_blocks(*ids, queries))
        of_heads = None if sinks is None else sinks.rearrange(layout.of_queries).array.reshape(-1)

        def one(query: jax.Array, key: jax.Array, value: jax.Array, ids: Any) -> Any:
            ids = None if ids is None else splash_attention_kernel.SegmentIds(*ids)
            return kernel(query, key, value, ids, of_heads)

        found = layout.named(jax.vmap(one)(*arrays, ids), query, layout.of_queries, POSITION, form.value_size.name)
        return found.rearrange(names).astype(query.dtype)

    activations = (*given[:3], mask.segments, given.sinks)
    return by_device(of_device, activations, (), Result(names), kernel=True)


def _narrowed(kernel: Any, seen: jax.Array) -> Any:
    """The kernel without the blocks that segments hide in all rows of the device.

    One table serves all rows, so that the rows remain one axis of the kernel's grid; a table for each row would make a
    loop of kernels.

    Args:
        kernel: JAX's kernel.
        seen: Whether a block of queries sees a block of keys: booleans [blocks of queries, blocks of keys].
    """
    forward, by_query = (_narrowed_table(info, seen) for info in (kernel.fwd_mask_info, kernel.dq_mask_info))
    # The kernel of the gradients with respect to keys goes through the queries of each block of keys.
    by_key = _turned(_narrowed_table(_turned(kernel.dkv_mask_info), seen.T))
    return type(kernel)(forward, by_query, by_key, **kernel.kwargs)


def _narrowed_table(info: Any, seen: jax.Array) -> Any:
    """A kernel's table without the blocks that are not seen.

    Each row of the table has the steps of one block. ``block_mask`` is 0 at a step that computes nothing, ``data_next``
    is the other block of a step. One that computes nothing gets that of the next step that computes, which is then read
    early, and none is read in vain.
    """
    if info.data_next is None:  # The mask without the segments hides nothing.
        blocks = jnp.broadcast_to(jnp.arange(seen.shape[1]), (1, *seen.shape))
        info = info._replace(data_next=blocks, block_mask=jnp.full_like(blocks, 2))
    blocks, number = info.data_next[0].astype(jnp.int32), seen.shape[1]
    # Comparisons in the place of gathers, which are slow on TPUs.
    shown = jnp.any(seen[:, None] & (blocks[..., None] == jnp.arange(number)), -1)
    mask = jnp.where(shown, info.block_mask[0], 0)
    steps = (
        jnp.arange(mask.size).reshape(mask.shape) * number + blocks
    )  # Ordered by step, and the remainder is the block.
    following = jax.lax.cummin(jnp.where(mask != 0, steps, jnp.iinfo(jnp.int32).max).reshape(-1), reverse=True)
    last = jnp.max(jnp.where(mask != 0, steps, 0))
    following = jnp.minimum(following, last).reshape(1, *mask.shape) % number
    return info._replace(
        data_next=following.astype(info.data_next.dtype), block_mask=mask[None].astype(info.block_mask.dtype)
    )


def _turned(info: Any) -> Any:
    """A table with its last two dimensions exchanged."""
    if info.data_next is None:
        return info
    return info._replace(data_next=jnp.swapaxes(info.data_next, 1, 2), block_mask=jnp.swapaxes(info.block_mask, 1, 2))


def _mask(mask: KernelMask, shape: tuple[int, int]) -> Any:
    """The kernel's mask of queries and keys, without the segments."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    if mask.reach is not None:
        return splash_attention_mask.LocalMask(shape, (mask.reach, mask.reach), 0)
    if mask.window is not None:
        window = (mask.window - 1, 0 if mask.causal else None)
        return splash_attention_mask.LocalMask(shape, window, 0)
    return splash_attention_mask.CausalMask(shape, 0) if mask.causal else splash_attention_mask.FullMask(shape)
