"""Types of settings that several update rules share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of the old value that a moving average keeps in each step."""

Positive = Annotated[float, Field(gt=0)]

Every = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""Number of steps."""

Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""Number of steps, or 0."""
