"""Clipping of gradients, besides that of their global norm."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel
from halcyon_api.spec.rules.common import Positive


class ClipSpec(ApiModel):
    """Clipping of gradients before that of the global norm."""

    value: Positive | None = Field(default=None, description="Largest absolute value of an element.")
    adaptive: Positive | None = Field(
        default=None,
        description="Largest norm for an output of a matrix, as a share of that of its weights (Brock et al. 2021).",
    )
