"""``trainer.attention``: which implementation computes attention.

All implementations compute the same function, so the field may change at a checkpoint. They add in different orders, so
the losses after the change may differ in their last digits.
"""

from typing import Any, Literal

from halcyon_api.base import Rule
from halcyon_api.hardware import TABLE

AttentionName = Literal["auto", "reference", "blockwise", "splash", "tokamax", "ring"]

ATTENTION: dict[AttentionName, str] = {
    "auto": "by hardware, shapes and masks",
    "reference": "all scores at once",
    "blockwise": "blocks of scores, without those that the mask hides",
    "splash": "the kernel for TPUs",
    "tokamax": "kernels for NVIDIA GPUs",
    "ring": "for a mesh with a `context` axis",
}
"""What each implementation does."""

ATTENTION_DESCRIPTION = (
    f"Implementation of attention. {'; '.join(f'`{name}`: {meaning}' for name, meaning in ATTENTION.items())}. All "
    "compute the same numbers up to rounding."
)

NARROW_KERNELS: tuple[AttentionName, ...] = ("splash", "tokamax")
"""Implementations that compute in bfloat16 only: their products would round float32 numbers."""


def _types(extra: str) -> list[str]:
    return [row.name for row in TABLE.values() if row.extra == extra]


def _context(self: Any) -> int:
    return 1 if self.mesh is None else self.mesh.ici.context


_NAME = "self.trainer.attention"
_CONTEXT = "(has(self.mesh) ? self.mesh.ici.context : 1)"
_TPUS, _GPUS = _types("tpu"), _types("cuda")

ATTENTION_RULES = (
    Rule(
        f"{_NAME} != 'splash' || self.accelerator.type in {_TPUS}",
        "trainer.attention: splash is a kernel for TPUs, which accelerator.type is not; use auto",
        ".trainer.attention",
    ),
    Rule(
        f"{_NAME} != 'tokamax' || self.accelerator.type in {_GPUS}",
        "trainer.attention: tokamax has kernels for NVIDIA GPUs, which accelerator.type is not; use auto",
        ".trainer.attention",
    ),
    Rule(
        f"!({_NAME} in {list(NARROW_KERNELS)}) || self.trainer.precision.compute == 'bfloat16'",
        "trainer.attention: splash and tokamax compute in bfloat16; set trainer.precision.compute to bfloat16, or use "
        "auto",
        ".trainer.attention",
    ),
    Rule(
        f"{_NAME} != 'ring' || {_CONTEXT} != 1",
        "trainer.attention: ring needs a mesh that splits positions; set mesh.ici.context to 2 or more, or use auto",
        ".trainer.attention",
        check=lambda self: self.trainer.attention != "ring" or _context(self) != 1,
    ),
    Rule(
        f"{_NAME} in ['auto', 'ring'] || {_CONTEXT} in [-1, 1]",
        "trainer.attention: only ring serves a mesh with mesh.ici.context above 1; use ring or auto",
        ".trainer.attention",
        check=lambda self: self.trainer.attention in ("auto", "ring") or _context(self) in (-1, 1),
    ),
)
"""Rules over the whole ``spec``."""
