"""``trainer.determinism``: whether the same steps give the same bits each time, or may be faster without that.

Only GPUs have operations that add in an order which changes from run to run. XLA replaces them by others, or rejects
them, with one option (https://openxla.org/xla/determinism). CPUs and TPUs add in a fixed order in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Determinism = Literal["bitwise", "fast"]

DETERMINISM: dict[Determinism, str] = {
    "bitwise": "repeated steps give the same bits",
    "fast": "on GPUs, XLA may add in any order, which changes last digits",
}
"""What each value promises."""

DETERMINISM_DESCRIPTION = (
    f"{'; '.join(f'`{name}`: {text}' for name, text in DETERMINISM.items())}. Restarts continue exactly with both."
)

UNORDERED = (
    "scatters, which add by atomic operations",
    "matrix products that are split along the summed axis",
    "convolutions",
)
"""The operations of a GPU that `fast` allows to add in any order: those that XLA's option for determinism excludes."""


@dataclass(frozen=True)
class InEffect:
    """What a run's determinism is on its devices.

    Attributes:
        determinism: The value in effect.
        meaning: One sentence for the log.
    """

    determinism: Determinism
    meaning: str


def in_effect(determinism: Determinism, platform: str) -> InEffect:
    """What a value of ``trainer.determinism`` does on a platform.

    Args:
        determinism: The value.
        platform: ``cpu``, ``gpu`` or ``tpu``.
    """
    if platform != "gpu":
        ignored = (
            f"trainer.determinism: {determinism} changes nothing on this platform ({platform}): "
            if determinism != "bitwise"
            else ""
        )
        return InEffect(
            "bitwise", f"{ignored}all operations add in a fixed order, so the same steps give the same bits"
        )
    if determinism == "bitwise":
        return InEffect(
            "bitwise",
            f"XLA leaves out operations that add in a changing order ({', '.join(UNORDERED)}); fast allows them",
        )
    return InEffect(
        "fast",
        f"XLA may use operations that add in a changing order ({', '.join(UNORDERED)}), so losses of repeated steps "
        "differ in their last "
        "digits; a restart still continues from the exact state, with the same batches",
    )
