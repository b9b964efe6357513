"""Which implementation computes a call of attention: the one that the run names, or the best for its hardware, shapes and mask.

``spec.trainer.attention`` and the platform belong to the run, not to a model. So the code that traces the model gives both by `attending`,
and every call of attention in it follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from halcyon.models.axes import KEY_POSITION, POSITION
from halcyon.models.parts.attention_blocks import Form
from halcyon.models.parts.kernel_attention import kernel_mask
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.splash_attention import LANES
from halcyon_api.spec.attention import AttentionName, widest_cudnn_head

Implementation = Literal["reference", "blockwise", "splash", "cudnn", "ring"]

UNEVEN_BLOCKS = 16
"""``auto`` pads sequences that the block does not divide only if they are longer than this number of blocks."""


class CannotServe(ValueError):
    """The named implementation cannot compute a call. The message is one sentence with the reason."""


class Device(Protocol):
    """The attribute that every ``jax.Device`` has."""

    @property
    def platform(self) -> str:
        """``cpu``, ``gpu`` or ``tpu``."""
        ...


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
    def of(device: Device) -> Target:
        """The target of a device."""
        version = str(getattr(device, "compute_capability", ""))
        major, _, minor = version.partition(".")
        return Target(device.platform, (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None)


@dataclass(frozen=True)
class Request:
    """One call of attention, before it is computed."""

    form: Form
    mask: Mask | None
    dtype: jnp.dtype
    sinks: bool
    parts: int
    """Parts into which the mesh splits the positions."""
    rows: bool = True
    """Whether keys and values have all axes of the batch that the queries have."""


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
def attending(implementation: AttentionName, target: Target, on_choice: Callable[[Choice], object] = lambda choice: None) -> Iterator[None]:
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
    if request.parts > 1:
        return Choice("ring", f"the mesh splits positions over {request.parts} devices")
    kernel: Implementation | None = "splash" if target.platform == "tpu" else "cudnn" if target.platform == "gpu" else None
    why_not = f"there is no kernel for {target.platform}"
    if kernel is not None:
        refused = refusal(kernel, request, target)
        if refused is None and (kernel != "cudnn" or _is_hopper(target)):
            return Choice(kernel, f"the kernel for {target.platform}")
        why_not = (
            f"not {kernel}: {refused or 'auto uses it on GPUs of compute capability 9 only; trainer.attention: cudnn uses it on this one'}"
        )
    length = form.position.size
    even = length % form.block == 0 and form.key_position.size % form.block == 0
    if length <= 2 * form.block or (not even and length <= UNEVEN_BLOCKS * form.block):
        return Choice("reference", f"{length} positions are few; {why_not}")
    return Choice("blockwise", f"{length} positions; {why_not}")


def refusal(name: Implementation, request: Request, target: Target) -> str | None:
    """Why an implementation cannot compute a call; None if it can."""
    if name != "ring" and request.parts > 1:
        return f"the mesh splits positions over {request.parts} devices, which only ring serves"
    if name == "ring":
        return _ring(request)
    if name == "splash":
        return _splash(request, target)
    if name == "cudnn":
        return _cudnn(request, target)
    return None


def _ring(request: Request) -> str | None:
    form = request.form
    if request.parts < 2:
        return "the mesh does not split positions; set mesh.ici.context"
    if form.position.size != form.key_position.size or (form.position.name, form.key_position.name) != (POSITION, KEY_POSITION):
        return "it needs one key for each query"
    return None if request.rows else "keys and values must have the rows of the queries"


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
    return None if request.rows else "keys and values must have the rows of the queries"


def _cudnn(request: Request, target: Target) -> str | None:
    form, mask = request.form, kernel_mask(request.mask)
    if target.platform != "gpu" or target.compute_capability is None:
        return f"it is a kernel for NVIDIA GPUs, and this is {target.platform}"
    if target.compute_capability < (8, 0):
        return f"it needs a GPU of compute capability 8 or later, and this one has {target.compute_capability[0]}"
    if request.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16, and this is {jnp.dtype(request.dtype).name}; set trainer.precision.compute to bfloat16"
    widest = widest_cudnn_head(target.compute_capability)
    if form.head_size.size > widest or form.head_size.size % 8 or form.value_size.size != form.head_size.size:
        return f"heads of {form.head_size.size} features must be a multiple of 8, at most {widest}, the same for keys and values"
    if request.sinks or form.soft_cap is not None:
        return "it has neither sinks nor a soft cap"
    if mask is not None and mask.segments is not None:
        return "it cannot keep attention within documents; set data.attendAcrossDocuments"
    if mask is None or (mask.window is not None and not mask.causal) or mask.offset or form.position.size != form.key_position.size:
        return "it has no mask of this kind"
    return None if request.rows else "keys and values must have the rows of the queries"


def _is_hopper(target: Target) -> bool:
    return target.compute_capability is not None and target.compute_capability[0] == 9
