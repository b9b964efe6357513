"""Which implementation computes a call of attention: the one that the run names, or the best for its hardware, shapes
and mask.

``spec.trainer.attention`` and the platform belong to the run, not to a model. So the code that traces the model gives
both by `attending`, and every call of attention in it follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from halcyon.models.parts import tokamax_attention
from halcyon.models.parts.attention_blocks import AttentionShape
from halcyon.models.parts.kernel_attention import kernel_mask
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.splash_attention import LANES
from halcyon_api.hardware.gpu import capability_of
from halcyon_api.hardware.gpu_attention import WRITTEN, GpuKernel, gpu_kernel
from halcyon_api.package import install
from halcyon_api.spec.attention import AttentionName

Implementation = Literal["reference", "blockwise", "splash", "tokamax", "ring"]

UNEVEN_BLOCKS = 16
"""``auto`` pads sequences that the block does not divide only if they are longer than this number of blocks."""
LARGEST_TABLE_BYTES = 2**31
"""The largest table of queries and keys that a kernel may keep in the backward pass of a layer
(`GpuKernel.keeps_table`).
"""


class CannotServe(ValueError):
    """The named implementation cannot compute a call. The message is one sentence with the reason."""


@dataclass(frozen=True)
class Target:
    """The devices that a program is made for.

    Attributes:
        platform: ``cpu``, ``gpu`` or ``tpu``.
        compute_capability: Of an NVIDIA GPU, such as (9, 0); None for other devices.
        interpret: Run kernels of other platforms without their hardware, for tests.
    """

    platform: str
    compute_capability: tuple[int, int] | None = None
    interpret: bool = False

    @staticmethod
    def of(device: Any) -> Target:
        """The target of a ``jax.Device``."""
        return Target(device.platform, capability_of(str(getattr(device, "compute_capability", ""))))


@dataclass(frozen=True)
class Request:
    """One call of attention, before it is computed."""

    form: AttentionShape
    mask: Mask | None
    dtype: jnp.dtype
    parts: int
    """Parts into which the mesh splits the positions."""
    rows: bool = True
    """Whether keys and values have all axes of the batch that the queries have."""
    batch: int = 1
    """Rows of the batch on each device."""
    dropout: bool = False
    """Whether weights of keys are dropped."""


@dataclass(frozen=True)
class Choice:
    """The implementation of a call, and why."""

    implementation: Implementation
    reason: str


@dataclass(frozen=True)
class _Setting:
    implementation: AttentionName = "auto"
    target: Target | None = None
    on_choice: Callable[[Choice], object] = field(default=lambda choice: None)


_setting: ContextVar[_Setting] = ContextVar("halcyon-attention", default=_Setting())  # noqa: B039 - it is frozen


@contextlib.contextmanager
def attending(
    implementation: AttentionName, target: Target, on_choice: Callable[[Choice], object] = lambda choice: None
) -> Iterator[None]:
    """Trace models in this context with an implementation of attention.

    Args:
        implementation: ``spec.trainer.attention``.
        target: The devices that the program is made for.
        on_choice: Called with the choice for each call that is traced.
    """
    token = _setting.set(_Setting(implementation, target, on_choice))
    try:
        yield
    finally:
        _setting.reset(token)


def present_target() -> Target:
    """The devices that models are traced for."""
    return _setting.get().target or Target.of(jax.devices()[0])


def chosen(request: Request, named: Implementation | None) -> Implementation:
    """The implementation of a call: `named`, that of the context, or the best one.

    Raises:
        CannotServe: The named one cannot compute the call.
    """
    setting = _setting.get()
    name = named or setting.implementation
    choice = best(request, present_target()) if name == "auto" else Choice(name, "the run names it")
    if name != "auto" and (reason := refusal(choice.implementation, request, present_target())) is not None:
        raise CannotServe(f"spec.trainer.attention: {name} cannot compute this model's attention: {reason}; use auto")
    setting.on_choice(choice)
    return choice.implementation


def best(request: Request, target: Target) -> Choice:
    """The implementation that ``auto`` takes."""
    form = request.form
    if request.dropout:
        return Choice("reference", "no other one drops weights")
    if request.parts > 1:
        return Choice("ring", f"the mesh splits positions over {request.parts} devices")
    kernel: Implementation | None = (
        "splash" if target.platform == "tpu" else "tokamax" if target.platform == "gpu" else None
    )
    why_not = f"there is no kernel for {target.platform}"
    if kernel is not None:
        refused = refusal(kernel, request, target)
        if refused is None:
            return Choice(kernel, _words(kernel, request, target))
        why_not = f"not {kernel}: {refused}"
    length = form.position.size
    even = length % form.block == 0 and form.key_position.size % form.block == 0
    if length <= 2 * form.block or (not even and length <= UNEVEN_BLOCKS * form.block):
        return Choice("reference", f"{length} positions are few; {why_not}")
    return Choice("blockwise", f"{length} positions; {why_not}")


def refusal(name: Implementation, request: Request, target: Target) -> str | None:
    """Why an implementation cannot compute a call; None if it can."""
    if name != "reference" and request.dropout:
        return "only reference has spec.trainer.dropout.attention"
    if name != "ring" and request.parts > 1:
        return f"the mesh splits positions over {request.parts} devices, which only ring serves"
    if name in ("reference", "blockwise"):
        return None
    found = _ring(request) if name == "ring" else {"splash": _splash, "tokamax": _tokamax}[name](request, target)
    return found if found or request.rows else "keys and values must have the rows of the queries"


def _ring(request: Request) -> str | None:
    form = request.form
    if request.parts < 2:
        return "the mesh does not split positions; set mesh.ici.context"
    if form.position.size != form.key_position.size:
        return "it needs one key for each query"
    return None


def _splash(request: Request, target: Target) -> str | None:
    form = request.form
    if target.platform != "tpu" and not target.interpret:
        return f"it is a kernel for TPUs, and this is {target.platform}"
    if request.dtype == jnp.float32 and not target.interpret:
        return "its products round float32 numbers to bfloat16; set trainer.precision.compute to bfloat16"
    if form.position.size % LANES or form.key_position.size % LANES:
        return f"{form.position.size} queries and {form.key_position.size} keys are not multiples of {LANES}"
    if kernel_mask(request.mask) is None:
        return "it has no mask of this kind"
    return None


def kernel_on(request: Request, target: Target) -> GpuKernel:
    """The kernel for GPUs that computes a call which `refusal` does not refuse."""
    kernel = _gpu_kernel(request, target)
    if isinstance(kernel, str):
        raise CannotServe(kernel)
    return kernel


def _tokamax(request: Request, target: Target) -> str | None:
    form, mask = request.form, kernel_mask(request.mask)
    kernel = _gpu_kernel(request, target)
    if isinstance(kernel, str):
        return kernel
    if request.dtype not in (jnp.bfloat16, jnp.float16):
        return (
            f"its products would round {jnp.dtype(request.dtype).name} numbers; set trainer.precision.compute to "
            "bfloat16"
        )
    if mask is None or not mask.causal or form.position.size != form.key_position.size:
        return "it has no mask of this kind"
    table = request.batch * form.position.size * form.key_position.size
    if kernel.keeps_table and _has_ranges(request) and table > LARGEST_TABLE_BYTES:
        return (
            f"its backward pass would keep a table of {table / 1e9:.1f} GB, one byte for each query and key; give "
            "shorter sequences"
        )
    if not tokamax_attention.is_there():
        return f"the package tokamax is not installed: {install('cuda')}"
    return None


def _gpu_kernel(request: Request, target: Target) -> GpuKernel | str:
    form = request.form
    if target.platform != "gpu" or target.compute_capability is None:
        return f"it has kernels for NVIDIA GPUs, and this is {target.platform}"
    sizes = form.head_size.size, form.value_size.size
    return gpu_kernel(
        target.compute_capability, *sizes, soft_cap=form.soft_cap is not None, ranges=_has_ranges(request)
    )


def _has_ranges(request: Request) -> bool:
    """Whether a mask hides keys before the query."""
    mask = kernel_mask(request.mask)
    return mask is not None and (mask.window is not None or mask.segments is not None)


def _words(kernel: Implementation, request: Request, target: Target) -> str:
    """The reason why ``auto`` takes a kernel."""
    if kernel != "tokamax" or target.compute_capability is None:
        return f"the kernel for {target.platform}"
    version = ".".join(map(str, target.compute_capability))
    taken = kernel_on(request, target)
    own = ", with a backward pass of Halcyon's own" if taken.gradients else ""
    return f"the {WRITTEN[taken.name]} kernel of tokamax{own}, on a GPU of compute capability {version}"
