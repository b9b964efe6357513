"""Kernels for GPUs on a machine without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks as interpreter
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.extend import backend

from halcyon.commands.programs.gpus import GPUS
from halcyon.models.parts.tokamax_attention import operation


@contextlib.contextmanager
def interpreted_triton() -> Iterator[None]:
    """Run the Triton kernels of tokamax on the processor, in Pallas' interpreter.

    Two things that the interpreter of JAX 0.12 lacks are replaced: the index of a program inside a condition (the
    kernel's conditions hold for all programs, where queries and keys have the same blocks), and loads of booleans with
    a mask.
    """
    vjp, block = operation("attention.pallas_triton_vjp"), operation("attention.pallas_triton").block
    load, mode = block.plgpu.load, jax._src.config.pallas_tpu_interpret_mode_context_manager  # type: ignore[attr-defined]

    def of_booleans(ref: Any, *, mask: Any = None, other: Any = None, **options: Any) -> Any:
        return load(ref, mask=mask, other=False if mask is not None and ref.dtype == jnp.bool_ else other, **options)

    before = mode.swap_local(True)
    try:
        with (
            mock.patch.object(backend, "get_default_device", return_value=GPUS["a100"]),
            mock.patch.object(block.plgpu, "load", of_booleans),
            mock.patch.object(vjp.pl, "when", return_value=lambda function: function()),
        ):
            yield
    finally:
        mode.set_local(before)


@contextlib.contextmanager
def interpreted_mosaic() -> Iterator[None]:
    """Run kernels of Mosaic GPU on the processor, in the interpreter of JAX.

    Its `wgmma` takes a left factor in shared memory only; here, one in registers too.
    """
    of_memory = interpreter.wgmma

    def wgmma(*, token: Any, thread: Any, mesh_location: Any, **names: Any) -> Any:
        left = names["a_allocation_key_as_array"]
        if left.ndim != 2:
            return of_memory(token=token, thread=thread, mesh_location=mesh_location, **names)
        memory, (total, right) = interpreter._get_shared_memory(), (_place(names, name) for name in ("acc", "b"))
        logged = interpreter.memory.GPULoggingInfo(mesh_location, thread, names["source_info"])
        sums, factor = (memory.get_buffer_content(*x, thread, logging_info=logged)[0] for x in (total, right))
        found = sums + np.matmul(np.asarray(left), factor, dtype=sums.dtype)
        memory.store_buffer_content(*total, found, thread, logging_info=logged)
        return token

    with (
        mock.patch.object(interpreter, "wgmma", wgmma),
        plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams()),
    ):
        yield


def _place(names: dict[str, Any], name: str) -> tuple[Any, Any]:
    """The allocation of an operand of `wgmma`, and the part of it that is meant."""
    key = interpreter.HostAllocationKey.from_array(names[f"{name}_allocation_key_as_array"])
    part = jax.tree.map(int, interpreter._remove_noop_transforms(names[f"{name}_transforms"]))
    return key, interpreter._get_shared_memory().access(key, part)
