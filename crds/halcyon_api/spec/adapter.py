"""``spec.adapter``: what is trained beside the frozen weights of a model."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, StringConstraints

from halcyon_api.base import ApiModel

Pattern = Annotated[str, StringConstraints(max_length=128)]
"""A pattern of dotted paths of parameters, as the shell has them: ``*`` stands for any characters."""

Base = Literal["nf4", "mxfp4", "int8", "float8"]


@dataclass(frozen=True)
class BaseForm:
    """How a frozen weight is coded.

    Attributes:
        block: Weights that share a scale.
        dtype: Type of an element of the codes.
        per_element: Codes in an element.
        scale_bytes: Bytes of a scale.
    """

    block: int
    dtype: str
    per_element: int
    scale_bytes: int

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of a weight with its share of a scale."""
        return 1 / self.per_element + self.scale_bytes / self.block


BASES: dict[Base, BaseForm] = {
    "nf4": BaseForm(64, "uint8", 2, 4),
    "mxfp4": BaseForm(32, "uint8", 2, 1),
    "int8": BaseForm(64, "int8", 1, 4),
    "float8": BaseForm(64, "float8_e4m3fn", 1, 4),
}


class LoraSpec(ApiModel):
    """Low-rank adaptation (Hu et al. 2021): ``x W + (alpha / rank) x A B``, where only A and B are trained, in float32.

    DoRA (Liu et al. 2024) also trains the length of each column of the sum. ``rsLora`` (Kalajdzievski 2023) divides by
    the root of `rank`.
    """

    rank: int = Field(default=8, ge=1, le=4096)
    """Columns of A."""
    alpha: PositiveFloat = 16.0
    """Factor, divided by `rank`."""
    targets: list[Pattern] = Field(default=["*"], min_length=1, max_length=64)
    """Patterns of the adapted weights, such as `*.attention.*`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that training sets to 0."""
    rs_lora: bool = False
    """Divide `alpha` by the root of `rank`."""
    dora: bool = False
    """Train the length of each column too."""
    train_also: list[Pattern] = Field(default=[], max_length=64)
    """Patterns of further trained parameters, such as `embedding.*`."""
    base: Base | None = None
    """Hold frozen matrices in 4 bits (nf4, mxfp4) or 8 (QLoRA). Default: their type."""

    @property
    def scale(self) -> float:
        """The factor of ``A B``."""
        return self.alpha / (math.sqrt(self.rank) if self.rs_lora else self.rank)


class AdapterSpec(ApiModel):
    """The adapter."""

    lora: LoraSpec
    """Low-rank adaptation (LoRA)."""
