"""Kernels for GPUs on a machine without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
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
