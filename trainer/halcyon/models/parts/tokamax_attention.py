"""Attention by the kernels of tokamax for NVIDIA GPUs (`halcyon_api.hardware.gpu_attention` has what each can compute).

The mask is causal. Documents and windows are the first key of each query: a document is a run of positions, so a query
sees no key before the first position of its document. There is no limit of the number of documents in a row.

The backward pass of Mosaic GPU is our own (`halcyon.models.parts.hopper_gradients`, `blackwell_gradients`): that of
tokamax computes the tiles that documents and windows hide.

The kernels know no sinks. A sink only adds to the sum of a query's exponentials, so the kernel's result is scaled by
the share of the sum that it had without the sink. The backward pass gets the sum with the sink and the scaled result.
From these two it computes the weights and the mean that the softmax's derivative subtracts, so its gradients are those
with sinks.

The forward pass marks its result and the sums for the remat policies that keep them, so no policy that does computes
the kernel again.
"""

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import HEAD_SIZE, KEY_POSITION, POSITION
from halcyon.models.partition import Result, Shard, by_device
from halcyon.models.parts.attention_blocks import AttentionShape, CallArrays, by_sinks, mean_gradient
from halcyon.models.parts.kernel_attention import KernelMask, Layout, result_names, rows_of
from halcyon.models.remat import attended
from halcyon_api.hardware.gpu_attention import FEATURES, GpuKernel

POSITIONS = 128
"""Positions are padded to a multiple of this number: the backward pass of the Triton kernel reads past the end of some
other lengths. The padding comes after all positions, so the causal mask hides it."""

_Given = tuple[NamedArray, NamedArray, NamedArray, NamedArray | None, NamedArray | None]
"""Queries, keys, values, the segments of positions, and sinks."""
_Saved = tuple[_Given, NamedArray, NamedArray]


@dataclass(frozen=True)
class _Call:
    """What is known before the program runs."""

    form: AttentionShape
    window: int | None
    kernel: GpuKernel


def attend_by_tokamax(given: CallArrays, mask: KernelMask, form: AttentionShape, kernel: GpuKernel) -> NamedArray:
    """See `halcyon.models.parts.attention.attention`; there is one key for each query."""
    ids = None if mask.segments is None else mask.segments.of_queries
    return _attend((*given[:3], ids, given.sinks), _Call(form, mask.window, kernel))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(given: _Given, call: _Call) -> NamedArray:
    return _forward(given, call)[0]


def _forward(given: _Given, call: _Call) -> tuple[NamedArray, _Saved]:
    layout, names = Layout.of(*given[:2]), result_names(given[0], call.form)
    one_number = tuple(name for name in names if name != call.form.value_size.name)

    def of_device(shard: Shard, given: Any, parameters: tuple[()]) -> tuple[NamedArray, NamedArray]:
        del shard, parameters
        query, key, value, ids, sinks = given
        result, log_totals = _Kernel(call, layout, query, key, value, ids).forward()
        if sinks is not None:
            extra = sinks.astype(jnp.float32).rearrange(layout.of_queries).array.reshape(-1, 1)
            without, log_totals = log_totals, jnp.logaddexp(log_totals, extra)
            result = result.astype(jnp.float32) * jnp.exp(without - log_totals)[..., None]
        named = layout.named(result, query, layout.of_queries, POSITION, call.form.value_size.name)
        return named.rearrange(names).astype(query.dtype), layout.named(
            log_totals, query, layout.of_queries, POSITION
        ).rearrange(one_number)

    result, log_totals = attended(by_device(of_device, given, (), (Result(names), Result(one_number))))
    return result, (given, result, log_totals)


def _backward(call: _Call, saved: _Saved, cotangent: NamedArray) -> tuple[_Given]:
    (query, key, value, ids, sinks), result, log_totals = saved
    form, layout = call.form, Layout.of(query, key)

    def of_device(shard: Shard, given: Any, parameters: tuple[()]) -> tuple[NamedArray, ...]:
        del shard, parameters
        query, key, value, ids, result, log_totals, cotangent = given
        found = _Kernel(call, layout, query, key, value, ids).backward(
            layout.array(result, layout.of_queries, POSITION, form.value_size.name),
            layout.array(log_totals, layout.of_queries, POSITION),
            layout.array(cotangent.astype(query.dtype), layout.of_queries, POSITION, form.value_size.name),
        )
        places = (
            (query, layout.of_queries, (POSITION, HEAD_SIZE)),
            (key, layout.of_keys, (KEY_POSITION, HEAD_SIZE)),
            (value, layout.of_keys, (KEY_POSITION, form.value_size.name)),
        )
        return tuple(
            layout.named(gradient, x, heads, *last).rearrange(x.axis_names).astype(x.dtype)
            for gradient, (x, heads, last) in zip(found, places, strict=True)
        )

    given = (query, key, value, ids, result, log_totals, cotangent.rearrange(result.axes))
    by_query, by_key, by_value = by_device(
        of_device, given, (), tuple(Result(x.axis_names) for x in (query, key, value))
    )
    gradient = None if sinks is None else by_sinks(sinks, mean_gradient(result, cotangent, form.value_size), log_totals)
    return ((by_query, by_key, by_value, None, gradient),)


_attend.defvjp(_forward, _backward)


class _Kernel:
    """The calls of a kernel on one device. Its own arrays are [row, position, head, feature], padded."""

    def __init__(
        self, call: _Call, layout: Layout, query: NamedArray, key: NamedArray, value: NamedArray, ids: NamedArray | None
    ) -> None:
        form = call.form
        self._positions, self._features, self._of_value = form.position.size, form.head_size.size, form.value_size.size
        self._arrays = tuple(
            _padded(layout.array(x, heads, position, features))
            for x, heads, position, features in (
                (query, layout.of_queries, POSITION, HEAD_SIZE),
                (key, layout.of_keys, KEY_POSITION, HEAD_SIZE),
                (value, layout.of_keys, KEY_POSITION, form.value_size.name),
            )
        )
        rows, padded = self._arrays[0].shape[:2]
        first = first_keys(None if ids is None else rows_of(ids, rows), call.window, padded)
        self._first = jnp.broadcast_to(jnp.int32(0) if first is None else first, (rows, padded))
        self._soft_cap, self._gradients = form.soft_cap, call.kernel.gradients
        half = (
            jax.lax.DotAlgorithmPreset.F16_F16_F32
            if query.dtype == jnp.float16
            else jax.lax.DotAlgorithmPreset.BF16_BF16_F32
        )
        self._kernel: Any = operation("attention.api").IMPLEMENTATIONS[call.kernel.name]
        self._how: dict[str, Any] = {
            "mask": operation("attention.base").Mask(is_causal=True, k_start=None if first is None else first[:, None]),
            "logits_scale": 1.0,
            "logits_soft_cap": form.soft_cap,
            "precision": half,
        }

    def forward(self) -> tuple[jax.Array, jax.Array]:
        """The result [row, head, position, feature], and the logarithm of each query's sum of exponentials [row, head,
        position].
        """
        bound = self._kernel.bind(*self._arrays, return_residuals=True, **self._how)
        kernel = self._kernel.replace(config=bound.heuristics_config)
        result, (greatest, total) = kernel(*self._arrays, return_residuals=True, **self._how)
        return self._cut(result, self._of_value), (greatest + jnp.log(total))[:, :, : self._positions]

    def backward(self, result: jax.Array, log_totals: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        """The gradients with respect to query, key and value: [row, head, position, feature].

        Args:
            result: [row, head, position, feature].
            log_totals: See `forward`; with the sinks.
            cotangent: Gradient with respect to the result, like it.
        """
        log_totals = jnp.pad(log_totals, ((0, 0), (0, 0), (0, -self._positions % POSITIONS)))
        if self._gradients is not None:
            means = jnp.einsum("bqhv,bqhv->bhq", *map(_padded, (result, cotangent)), preferred_element_type=jnp.float32)
            # Imported here: a process without such a GPU needs no compiler of Mosaic GPU.
            own, backward = (
                importlib.import_module(f"halcyon.models.parts.{name}")
                for name in (f"{self._gradients}_gradients", "gpu_backward")
            )
            given = backward.Backward(*self._arrays, _padded(cotangent), log_totals, means, self._first)
            return self._all(own.gradients(given, self._soft_cap))
        keywords = dict(self._kernel.bind(*self._arrays, **self._how).kwargs)
        del keywords["return_residuals"]
        # The kernel divides by the second number, so a query's weights are the exponentials of score - log_total.
        arrays = ((log_totals, jnp.ones_like(log_totals)), _padded(result), _padded(cotangent), *self._arrays)
        kernel = self._kernel.vjp.replace(config=self._kernel.vjp.bind(*arrays, **keywords).heuristics_config)
        found = kernel(*arrays, **keywords)
        return self._all(found[name] for name in "qkv")

    def _all(self, gradients: Iterable[jax.Array]) -> tuple[jax.Array, ...]:
        sizes = self._features, self._features, self._of_value
        return tuple(self._cut(x, features) for x, features in zip(gradients, sizes, strict=True))

    def _cut(self, x: jax.Array, features: int) -> jax.Array:
        """[row, head, position, feature] of a padded [row, position, head, feature]."""
        return jnp.swapaxes(x[:, : self._positions, :, :features], 1, 2)


def first_keys(ids: jax.Array | None, window: int | None, positions: int) -> jax.Array | None:
    """The first key that each query may see: int32 [rows, positions]; None: all queries see the first key of the row.

    Args:
        ids: Number of the segment of each position, for the first positions of the row: [rows, up to `positions`].
            None: one segment.
        window: Positions that a query sees, its own included. None: no limit.
        positions: Positions of a row, with the padding at its end.
    """
    position, starts = jnp.arange(positions, dtype=jnp.int32), []
    if ids is not None:
        ids = jnp.pad(ids, ((0, 0), (0, positions - ids.shape[1])), mode="edge")
        begins = jnp.diff(ids, prepend=ids[:, :1]) != 0
        starts.append(jax.lax.cummax(jnp.where(begins, position, 0), 1))
    if window is not None:
        starts.append(jnp.maximum(position - window + 1, 0)[None])
    return functools.reduce(jnp.maximum, starts) if starts else None


def _padded(x: jax.Array) -> jax.Array:
    """[row, position, head, feature] of [row, head, position, feature], with zeros at the end of positions and
    features.
    """
    widths = ((0, 0), (0, 0), (0, -x.shape[2] % POSITIONS), (0, -x.shape[3] % FEATURES))
    return jnp.swapaxes(jnp.pad(x, widths), 1, 2)


def is_there() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("tokamax") is not None


def operation(name: str) -> Any:
    """The module of an operation, such as ``attention.api``."""
    # An empty module in the place of xprof: only the benchmarks of tokamax use it, and it brings 28 packages.
    if "xprof" not in sys.modules and importlib.util.find_spec("xprof") is None:
        for part in ("xprof", "xprof.cli", "xprof.cli.tools"):
            sys.modules[part] = types.ModuleType(part)
        sys.modules["xprof.cli.tools"].get_kernel_stats_tool = None  # type: ignore[attr-defined]
    return importlib.import_module(f"tokamax._src.ops.{name}")
