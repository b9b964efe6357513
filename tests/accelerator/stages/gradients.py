"""The backward pass of attention: our own kernels, which leave hidden tiles out, beside the same kernels on all tiles of
the causal triangle, and those of tokamax. Times are of the forward and the backward pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from halcyon.models.parts.attention_choice import Target
from halcyon.models.parts.visible_tiles import tiles_of_keys, tiles_of_queries
from halcyon_api.hardware import gpu_attention
from tests.accelerator.measure import Options, error_of, milliseconds
from tests.accelerator.rows import Row
from tests.accelerator.stages.attention import Case, programs


def rows(options: Options) -> Iterator[Row]:
    """One row for each case."""
    capability = Target.of(jax.devices()[0]).compute_capability
    known = gpu_attention.gpu_kernels(capability) if capability else ()
    own = known[0].gradients if known else None
    if own is None:
        yield {"left out": "this device has no backward kernels of our own"}
        return
    length = options.pick(8192, 1152)
    sizes = options.pick([(32, 8, 64), (32, 8, 128)], [(2, 1, 64)])
    for heads, of_keys, features in sizes:
        for mask in ("causal + documents", "causal + window", "causal"):
            case = Case(options.pick(4, 1), length, heads, of_keys, features, mask, "bfloat16")
            arrays, ids = case.arrays(), jnp.asarray(case.ids())
            found: dict[str, Any] = {}
            times: dict[str, float] = {}
            for name, setting in (
                ("visible tiles", contextlib.nullcontext()),
                ("all tiles", all_tiles(own)),
                ("tokamax", of_tokamax(known)),
            ):
                with setting:
                    (run,) = programs([(case, "tokamax")], gradients=True)
                if isinstance(run, str):
                    yield {**case.facts, "error": f"{name}: {run}"}
                    break
                found[name] = run(arrays, ids)
                times[f"{name} ms"] = milliseconds(lambda run=run, arrays=arrays, ids=ids: run(arrays, ids), most=10)
            else:
                pairs = list(zip(found["visible tiles"], found["all tiles"], found["tokamax"], strict=True))
                yield {
                    **case.facts,
                    **times,
                    "same bits as all tiles": all(bool(jnp.array_equal(ours, whole)) for ours, whole, _ in pairs),
                    "largest difference to tokamax": max(error_of(ours, other) for ours, _, other in pairs),
                }


def all_tiles(own: str) -> Any:
    """Traced in it, our kernels compute the whole causal triangle."""
    return mock.patch.multiple(
        importlib.import_module(f"halcyon.models.parts.{own}_gradients"),
        tiles_of_keys=lambda first, *sizes: tiles_of_keys(jnp.zeros_like(first), *sizes),
        tiles_of_queries=lambda first, *sizes: tiles_of_queries(jnp.zeros_like(first), *sizes),
    )


def of_tokamax(known: tuple[gpu_attention.GpuKernel, ...]) -> Any:
    """Traced in it, the backward pass is that of tokamax."""
    theirs = tuple(dataclasses.replace(kernel, gradients=None) for kernel in known)
    return mock.patch.object(gpu_attention, "gpu_kernels", return_value=theirs)
