"""GPUs that are not there: tokamax asks JAX for the device that a program is made for, and gets one of these."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.extend import backend
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from halcyon.machine.tokamax import operation
from halcyon.models.parts.attention_choice import Target


@dataclass(frozen=True)
class Gpu:
    """What tokamax asks of a device."""

    device_kind: str
    compute_capability: str
    core_count: int
    platform: str = "gpu"


GPUS = {
    (8, 0): Gpu("NVIDIA A100-SXM4-40GB", "8.0", 108),
    (8, 9): Gpu("NVIDIA L4", "8.9", 58),
    (9, 0): Gpu("NVIDIA H100 80GB HBM3", "9.0", 132),
    (10, 0): Gpu("NVIDIA B200", "10.0", 148),
}


@contextlib.contextmanager
def pretended(target: Target) -> Iterator[None]:
    """Trace and lower programs for a GPU of this compute capability, on a machine without one."""
    gpu = GPUS[target.compute_capability or (0, 0)]
    device = AbstractDevice(device_kind=gpu.device_kind, num_cores=gpu.core_count, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    with mock.patch.object(backend, "get_default_device", return_value=gpu), jax.sharding.use_abstract_mesh(mesh):
        yield


@contextlib.contextmanager
def interpreted_triton() -> Iterator[None]:
    """Run the Triton kernels of tokamax on the processor, in Pallas' interpreter.

    Two things that the interpreter of JAX 0.12 lacks are replaced: the index of a program inside a condition (the kernel's conditions hold
    for all programs, where queries and keys have the same blocks), and loads of booleans with a mask.
    """
    vjp, block = operation("attention.pallas_triton_vjp"), operation("attention.pallas_triton").block
    load, mode = block.plgpu.load, jax._src.config.pallas_tpu_interpret_mode_context_manager  # type: ignore[attr-defined]

    def of_booleans(ref: Any, *, mask: Any = None, other: Any = None, **options: Any) -> Any:
        return load(ref, mask=mask, other=False if mask is not None and ref.dtype == jnp.bool_ else other, **options)

    before = mode.swap_local(True)
    try:
        with (
            mock.patch.object(backend, "get_default_device", return_value=GPUS[8, 0]),
            mock.patch.object(block.plgpu, "load", of_booleans),
            mock.patch.object(vjp.pl, "when", return_value=lambda function: function()),
        ):
            yield
    finally:
        mode.set_local(before)
