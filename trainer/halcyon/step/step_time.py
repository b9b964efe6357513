"""The time of a compiled step on its hardware, from its plan, the speeds of a device, and the shares of them that
programs reach. Pure.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

from halcyon.models.flops import ModelFlops
from halcyon.step.device_use import Plan
from halcyon.step.hlo.work import Rates, Shares, Work, is_narrow
from halcyon_api.spec.trainer import Remat

_BACKWARD = 2.5
"""Operations of the backward pass of attention, as a multiple of the forward pass: five products instead of two (Dao
2023)."""


@dataclass(frozen=True)
class StepPart:
    """The time of one part of a step on a device.

    Attributes:
        name: See `halcyon.step.hlo.work.Work`; ``collectives`` for those that the step waits for, ``offload`` for the
            copies of what is in the host's memory, ``launches`` for the time in which the device waits for its host.
        flops: Operations of its products and kernels.
        moved_bytes: Bytes that it reads and writes, or sends.
        ideal_seconds: Time of an ideal device.
        seconds: Time with the assumed shares of the peak speeds.
        bound: What takes most of that time.
    """

    name: str
    flops: float
    moved_bytes: float
    ideal_seconds: float
    seconds: float
    bound: Literal["products", "kernels", "memory", "links", "host"]


@dataclass(frozen=True)
class StepTime:
    """The time of a step.

    Attributes:
        parts: Its parts, the longest first.
        ideal_seconds: On ideal devices.
        seconds: With the assumed shares.
        ceiling: The greatest MFU, that of ideal devices. At most 1: it counts only what every step computes.
        mfu: MFU of `seconds`.
    """

    parts: tuple[StepPart, ...]
    ideal_seconds: float
    seconds: float
    ceiling: float
    mfu: float

    @property
    def bound(self) -> str:
        """What takes most of the time."""
        times: dict[str, float] = {}
        for part in self.parts:
            times[part.bound] = times.get(part.bound, 0.0) + part.seconds
        return max(times, key=times.__getitem__)


def step_time(plan: Plan, flops: ModelFlops, rates: Rates, shares: Shares, *, own_kernel: bool = False) -> StepTime:
    """The time of a compiled step.

    Args:
        plan: Its plan, with `work` and `overlap`.
        flops: The operations of its model.
        rates: Speed of a device.
        shares: The shares of the peak speeds.
        own_kernel: Whether the hardware computes attention by a kernel that the compiled program does not have, because
            it was compiled for another platform.
    """
    kernels = kernel_flops(plan, flops, own_kernel=own_kernel)
    all_flops = sum(one.flops for one in plan.products)
    narrow = sum(one.flops for one in plan.products if is_narrow(one.dtype)) / (all_flops or 1)
    products = (1 - narrow / 2) / ((1 - narrow) / shares.products + narrow / 2 / shares.narrow)
    reached = {"products": products, "memory": shares.memory, "kernels": shares.kernels}
    parts: list[StepPart] = []
    for work in plan.work:
        if work.part == "attention" and own_kernel:
            work = Work(work.part)
        of_kernels = kernels.get(work.part, 0.0)
        ideal = {
            "products": work.product_seconds,
            "memory": work.memory_seconds,
            "kernels": of_kernels / rates.flops,
        }
        times = {name: seconds / reached[name] for name, seconds in ideal.items()}
        bound: Any = max(times, key=times.__getitem__)
        parts.append(
            StepPart(
                work.part,
                work.flops + of_kernels,
                work.moved_bytes,
                sum(ideal.values()),
                sum(times.values()),
                bound,
            )
        )
    if plan.overlap is not None and plan.overlap.waited:
        waited = plan.overlap.waited
        sent = float(sum(row.sent_bytes for row in plan.traffic))
        parts.append(StepPart("collectives", 0.0, sent, waited, waited / shares.links, "links"))
    # To the device and back. An ideal device copies while it computes; so do blocks whose inputs the host keeps.
    alone, beside = 2.0 * plan.memory.offloaded, 2.0 * plan.memory.kept_on_host
    if alone or beside:
        hidden = sum(part.seconds for part in parts)
        seconds = alone / shares.host_copy + max(0.0, beside / shares.host_copy - hidden)
        parts.append(StepPart("offload", 0.0, alone + beside, 0.0, seconds, "host"))
    # The host launches kernels ahead of the device, which waits for it where they are short.
    launched = rates.dispatch + rates.launch * sum(work.kernels for work in plan.work)
    if (late := launched - sum(part.seconds for part in parts)) > 0:
        parts.append(StepPart("launches", 0.0, 0.0, 0.0, late, "host"))
    ideal_seconds, seconds = sum(part.ideal_seconds for part in parts), sum(part.seconds for part in parts)
    # At the peak rates: without positions that a causal mask hides and gradients of frozen weights; the narrow share of
    # products at the rate of its type.
    at_peak = plan.device_tokens * (flops.products * (1 - narrow / 2) + flops.visible) / rates.flops
    parts.sort(key=lambda part: -part.seconds)
    return StepTime(
        tuple(parts),
        ideal_seconds,
        seconds,
        at_peak / ideal_seconds if ideal_seconds else math.nan,
        at_peak / seconds if seconds else math.nan,
    )


def kernel_flops(plan: Plan, flops: ModelFlops, *, own_kernel: bool = False) -> dict[str, float]:
    """Operations of a step that a program does not state, on one device, by part: those of kernels, and of loops whose
    iterations the data decides.
    """
    tokens = plan.device_tokens
    found: dict[str, float] = {}
    hidden = {"attention"} if own_kernel else set[str]()
    hidden |= {call.scope for call in plan.kernels if call.scope} | {
        loop.scope for loop in plan.loops if loop.scope and loop.trips is None and loop.products
    }
    again = {call.scope for call in plan.kernels if call.phase == "recomputed"}
    if "attention" in hidden and flops.attention:
        forward = flops.visible / 3  # kernels leave out what a causal mask hides
        found["attention"] = tokens * forward * (1 + _BACKWARD + ("attention" in again))
    if "experts" in hidden and flops.experts:
        forward = flops.experts / 3
        found["experts"] = tokens * forward * (3 + ("experts" in again))
    return found


@dataclass(frozen=True)
class PlannedTime:
    """The time of a compiled step, to compare it with others of the same run.

    Attributes:
        plan: The plan of the step, with `work` and `overlap`.
        flops: The operations of its model.
        rates: Speed of a device.
    """

    plan: Plan
    flops: ModelFlops
    rates: Rates

    @functools.cached_property
    def step(self) -> StepTime:
        """The time."""
        return step_time(self.plan, self.flops, self.rates, Shares())

    def least_with(self, microbatches: int, remat: Remat) -> float:
        """Seconds that a step with fewer microbatches and more recomputation takes at least: as if each microbatch
        waited for the same part of the links, and only matrix products and kernels were computed again.

        Args:
            microbatches: Its number.
            remat: Its policy.
        """
        waited = sum(part.seconds for part in self.step.parts if part.bound == "links")
        saved = waited * (1 - microbatches / self.plan.microbatches)
        return self.step.seconds - saved + self._again(remat) - self._again(self.plan.remat)

    def _again(self, remat: Remat) -> float:
        """Seconds in which a device computes a part of the forward pass again."""
        tokens, shares = self.plan.device_tokens, Shares()
        products = (self.flops.per_token - self.flops.attention - self.flops.head) / 3 / shares.products
        attention = self.flops.visible / 3 / shares.kernels
        again = {"attention": products, "full": products + attention}.get(remat, 0.0)
        return tokens * again / self.rates.flops
