"""Sophia (Liu et al. 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, Every, Positive, UpdateRule

Estimator = Literal["gaussNewton", "hutchinson"]
"""Estimators of the Hessian's diagonal."""


class SophiaSpec(UpdateRule):
    """Sophia (Liu et al. 2023): momentum over an estimate of the Hessian's diagonal, clipped."""

    estimator: Estimator = Field(
        default="gaussNewton",
        description="Sophia-G: by tokens that the model samples. Sophia-H: by products with the Hessian.",
    )
    beta1: Decay = Field(default=0.965, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.99, description="Decay of the estimate.")
    gamma: Positive | None = Field(
        default=None, description="Factor of the estimate. Default: 0.05, or 0.01 for hutchinson."
    )
    epsilon: Positive = Field(default=1e-12, description="Least divisor.")
    every_steps: Every = Field(default=10, description="Steps between estimates.")

    wide_only: ClassVar[bool] = True
