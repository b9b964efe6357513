"""Attention by *splash attention*, JAX's Pallas kernel for TPUs, which skips the blocks that the mask hides."""

from __future__ import annotations

from typing import Any

import jax
from haliax import NamedArray

from halcyon.models.parts.attention_blocks import Form
from halcyon.models.parts.kernel_attention import KernelArrays, KernelMask, attend_by_kernel
from halcyon.models.remat import ATTENTION

LANES = 128
"""Lengths must be multiples of this number: the kernel's blocks are."""


def attend_by_splash(
    query: NamedArray, key: NamedArray, value: NamedArray, mask: KernelMask, sinks: NamedArray | None, form: Form, *, interpret: bool
) -> NamedArray:
    """See `halcyon.models.parts.attention.attention`; the queries are already scaled.

    Args:
        query: The queries.
        key: The keys.
        value: Their values.
        mask: The keys that a query sees.
        sinks: Scores of a key without a value.
        form: The axes; its block is the largest one.
        interpret: Run the kernel's program without a TPU.
    """
    # Only TPUs use the kernel.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    shape = (form.position.size, form.key_position.size)
    queries, keys = (
        max(size for size in (LANES, 2 * LANES, 4 * LANES) if length % size == 0 and size <= max(form.block, LANES)) for length in shape
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

    def compute(arrays: KernelArrays) -> jax.Array:
        heads = arrays.query.shape[1]
        kernel = splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([_mask(mask, shape)] * heads),
            block_sizes=blocks,
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=ATTENTION,
            attn_logits_soft_cap=form.soft_cap,
            interpret=interpret,
        )

        def one(query: jax.Array, key: jax.Array, value: jax.Array, segments: tuple[jax.Array, jax.Array] | None) -> jax.Array:
            ids = None if segments is None else splash_attention_kernel.SegmentIds(*segments)
            found: Any = kernel(query, key, value, ids, arrays.sinks)
            return found

        return jax.vmap(one)(arrays.query, arrays.key, arrays.value, arrays.segments)

    return attend_by_kernel(compute, query, key, value, sinks, mask.segments, form)


def _mask(mask: KernelMask, shape: tuple[int, int]) -> Any:
    """The kernel's mask of queries and keys, without the segments."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    if mask.window is not None:
        window = (mask.window - 1, 0 if mask.causal else None)
        return splash_attention_mask.LocalMask(shape, window, mask.offset)
    return splash_attention_mask.CausalMask(shape, mask.offset) if mask.causal else splash_attention_mask.FullMask(shape)
