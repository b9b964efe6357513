"""``spec.adapter``: what is trained beside the frozen weights of a model."""

import math
from typing import Annotated

from pydantic import Field, PositiveFloat, StringConstraints

from halcyon_api.base import ApiModel

Pattern = Annotated[str, StringConstraints(max_length=128)]
"""A pattern of dotted paths of parameters, as the shell has them: ``*`` stands for any characters."""


class LoraSpec(ApiModel):
    """Low-rank adaptation (Hu et al. 2021): ``x W + (alpha / rank) x A B``, where only A and B are trained, in float32.

    DoRA (Liu et al. 2024) also trains the length of each column of the sum. ``rsLora`` (Kalajdzievski 2023) divides by
    the root of `rank`.
    """

    rank: int = Field(default=8, ge=1, le=4096)
    """Columns of A."""
    alpha: PositiveFloat = 16.0
    """Factor, divided by `rank`."""
    targets: Annotated[list[Pattern], Field(min_length=1, max_length=64)] = Field(default=["*"])
    """Patterns of the adapted weights, such as `*.attention.*`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that training sets to 0."""
    rs_lora: bool = False
    """Divide `alpha` by the root of `rank`."""
    dora: bool = False
    """Train the length of each column too."""
    train_also: Annotated[list[Pattern], Field(max_length=64)] = Field(default=[])
    """Patterns of further trained parameters, such as `embedding.*`."""

    @property
    def scale(self) -> float:
        """The factor of ``A B``."""
        return self.alpha / (math.sqrt(self.rank) if self.rs_lora else self.rank)


class AdapterSpec(ApiModel):
    """The adapter."""

    lora: LoraSpec
    """Low-rank adaptation (LoRA)."""
