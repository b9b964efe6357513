"""What the settings of all update rules share."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from halcyon_api.base import ApiModel

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of the old value that a moving average keeps in each step."""

Positive = Annotated[float, Field(gt=0)]

Every = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""Number of steps."""

Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""Number of steps, or 0."""


class UpdateRule(ApiModel):
    """The settings of an update rule, and what else the programs know of the rule."""

    moments: ClassVar[int] = 2
    """Values in its state for each parameter of a square matrix."""
    least_moments: ClassVar[int | None] = None
    """Least of these values for any parameter, where it differs: a side of a matrix may have no factor."""
    wide_only: ClassVar[bool] = False
    """Whether it stores all moments in float32."""
    draws: ClassVar[bool] = False
    """Whether its update draws random numbers."""
