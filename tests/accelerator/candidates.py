"""Kernels of other libraries that Halcyon could take: measured beside its own, so that the figures decide.

``tokamax`` (openxla) has attention and products of groups for GPUs. Haliax has products of groups in Triton.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Attention = Callable[..., jax.Array]
"""From query [row, position, head, feature], keys and values [row, position, kv head, feature], ids of documents [row, position] or None,
and a window or None, to [row, position, head, feature]. Queries are scaled already; attention is causal."""
Product = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""See `halcyon.models.parts.grouped_product.grouped_product`."""


def _tokamax() -> Any:
    try:
        import xprof  # noqa: F401
    except ImportError:  # only its benchmarks use this package of 32 MB, but it imports it at the start
        for name in ("xprof", "xprof.cli", "xprof.cli.tools"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["xprof.cli.tools"].get_kernel_stats_tool = None  # type: ignore[attr-defined]
    import tokamax

    return tokamax


def tokamax_attention(name: str) -> Attention:
    """Attention of tokamax: ``triton`` or ``mosaic_gpu``."""

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, ids: jax.Array | None, window: int | None) -> jax.Array:
        _tokamax()
        from tokamax._src.ops.attention import api, base

        position = jnp.arange(query.shape[1], dtype=jnp.int32)
        starts = []
        if ids is not None:
            is_first = jnp.concatenate([jnp.ones_like(ids[:, :1], bool), ids[:, 1:] != ids[:, :-1]], 1)
            starts.append(jax.lax.cummax(jnp.where(is_first, position, 0), 1))
        if window is not None:
            starts.append(jnp.maximum(position - window + 1, 0)[None])
        first = None if not starts else starts[0] if len(starts) == 1 else jnp.maximum(*starts)
        mask = base.Mask(is_causal=True, k_start=None if first is None else first[:, None])
        return api.IMPLEMENTATIONS[name](query, key, value, mask=mask, logits_scale=1.0)

    return attend


ATTENTION: dict[str, Attention] = {f"tokamax {name}": tokamax_attention(name) for name in ("mosaic_gpu", "triton")}


def tokamax_product(name: str) -> Product:
    """Products of groups by tokamax."""

    def product(rows: jax.Array, matrices: jax.Array, sizes: jax.Array) -> jax.Array:
        return _tokamax().ragged_dot(rows, matrices, sizes, implementation=name)

    return product


def haliax_product(rows: jax.Array, matrices: jax.Array, sizes: jax.Array) -> jax.Array:
    """Haliax's products of groups in Triton, with the one function that newer versions of JAX have removed."""
    import importlib

    module = importlib.import_module("haliax.nn.ragged_dot")

    def dot(a: jax.Array, b: jax.Array, trans_a: bool = False, trans_b: bool = False, **options: Any) -> jax.Array:
        numbers = (((0 if trans_a else 1,), (1 if trans_b else 0,)), ((), ()))
        return jax.lax.dot_general(a, b, numbers, precision=options.get("precision"), preferred_element_type=jnp.float32)

    if "dot" not in vars(module.pl):
        module.pl.dot = dot
    return module.ragged_dot(rows, matrices, sizes, implementation="triton")


PRODUCTS: dict[str, Product] = {
    "tokamax mosaic_gpu": tokamax_product("mosaic_gpu"),
    "Haliax triton": haliax_product,
    "XLA": jax.lax.ragged_dot,
}


def attend_by(candidate: Attention) -> Callable[..., Any]:
    """A candidate in the place of `halcyon.models.parts.blockwise_attention.attend_in_blocks`."""
    from halcyon.models.parts.kernel_attention import KernelArrays, attend_by_kernel, kernel_mask
    from halcyon.models.remat import attended

    def attend(query: Any, key: Any, value: Any, mask: Any, sinks: Any, form: Any) -> Any:
        found = kernel_mask(mask)
        if found is None or not found.causal or found.offset or sinks is not None or form.soft_cap is not None:
            raise NotImplementedError("a candidate has no mask of this kind")

        def compute(arrays: KernelArrays) -> jax.Array:
            queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in arrays[:3])
            ids = None if arrays.segments is None else arrays.segments[0]
            return jnp.swapaxes(candidate(queries, keys, values, ids, found.window), 1, 2)

        return attended(attend_by_kernel(compute, query, key, value, None, found.segments, form))

    return attend
