"""Attention by cuDNN's kernel for NVIDIA GPUs, through ``jax.nn.dot_product_attention``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from haliax import NamedArray
from jax.nn import dot_product_attention

from halcyon.models.parts.attention_blocks import Form
from halcyon.models.parts.kernel_attention import KernelArrays, KernelMask, attend_by_kernel


def attend_by_cudnn(query: NamedArray, key: NamedArray, value: NamedArray, mask: KernelMask, form: Form) -> NamedArray:
    """See `halcyon.models.parts.attention.attention`; the queries are already scaled."""

    def compute(arrays: KernelArrays) -> jax.Array:
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in arrays[:3])  # the kernel wants positions before heads
        found = dot_product_attention(query, key, value, implementation="cudnn", **kernel_arguments(mask))
        return jnp.swapaxes(found, 1, 2)

    return attend_by_kernel(compute, query, key, value, None, None, form)


def kernel_arguments(mask: KernelMask) -> dict[str, Any]:
    """The keyword arguments for a mask. The queries are already scaled."""
    window = None if mask.window is None else (mask.window - 1, 0)
    return {"scale": 1.0, "is_causal": mask.causal, "local_window_size": window}
