"""The settings that the rules for hidden matrices share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from halcyon_api.base import ApiModel
from halcyon_api.spec.rules.common import Decay, Positive

Coefficients = Literal["quintic", "polarExpress"]
"""``quintic``: one polynomial for all iterations (Jordan et al. 2024). ``polarExpress``: the best one for each
(Amsel et al. 2025).
"""

IterationType = Literal["float32", "bfloat16"]

Scaling = Literal["spectral", "moonlight"]
"""``spectral``: sqrt(max(1, outputs / inputs)) (Jordan et al. 2024). ``moonlight``: 0.2 sqrt(max(inputs, outputs)), so
that an element changes as much as with AdamW and the same learning rate (Liu et al. 2025)."""


class OthersSpec(ApiModel):
    """AdamW for the parameters that are no hidden matrices: embeddings, head, router, norms, biases."""

    learning_rate: Positive = Field(default=1.0, description="Factor of the learning rate.")
    beta1: Decay = Field(default=0.9, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="See `adamw`.")


class MatricesSpec(ApiModel):
    """Settings of the rules for hidden matrices: muon, normuon, muonH, soap, soapMuon, kron, scion."""

    coefficients: Coefficients = Field(default="polarExpress", description="Polynomials of the orthogonalisation.")
    iterations: int = Field(default=5, ge=1, le=20, description="Its iterations.")
    iteration_type: IterationType = Field(default="float32", description="Type of its products.")
    scaling: Scaling = Field(default="moonlight", description="Scale of orthogonal updates.")
    cautious: bool = Field(
        default=False, description="Decay matrices only where the update has the sign of the weight."
    )
    others: OthersSpec = Field(
        default_factory=OthersSpec, description="AdamW of all other parameters; not for `scion`."
    )
