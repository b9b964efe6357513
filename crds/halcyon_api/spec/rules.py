"""The update rules of ``spec.optimizer``: one class with the settings of each rule."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from halcyon_api.base import ApiModel, StepCount, StepNumber, optional

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of the old value that a moving average keeps in each step."""

Positive = Annotated[float, Field(gt=0)]


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


class AdamWSpec(UpdateRule):
    """AdamW (Loshchilov and Hutter 2019)."""

    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the root of the second moment.")
    cautious: bool | None = optional(
        "Change only elements whose gradient has the sign of the update (Liang et al. 2024)."
    )
    corrected_decay: bool | None = optional(
        "Decay of all matrices but the head falls with the rate (AdamC, Defazio 2025)."
    )
    clip_update: Positive | None = optional(
        "Largest root mean square of a parameter's update, before the rate (Shazeer and Stern 2018)."
    )


class AdoptSpec(UpdateRule):
    """ADOPT (Taniguchi et al. 2024): the second moment of the steps before divides the gradient."""

    beta1: Decay = Field(default=0.9, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.9999, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-6, description="Least divisor.")

    wide_only: ClassVar[bool] = True


class MarsSpec(UpdateRule):
    """MARS-AdamW (Yuan et al. 2024): AdamW of gradients whose variance the last gradient reduces."""

    beta1: Decay = Field(default=0.95, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.99, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")
    gamma: Positive = Field(default=0.025, description="Scale of the reduction.")

    moments: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True


class AdemamixSpec(UpdateRule):
    """AdEMAMix (Pagliardini et al. 2024): AdamW with a second, slow first moment."""

    beta1: Decay = Field(default=0.9, description="Decay of the fast moment.")
    beta2: Decay = Field(default=0.999, description="Decay of the second moment.")
    beta3: Decay = Field(default=0.9999, description="Decay of the slow moment.")
    alpha: Positive = Field(default=5.0, description="Factor of the slow moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")
    warmup_steps: StepNumber = Field(default=0, description="Steps in which beta3 and alpha rise.")

    moments: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True


class ScheduleFreeSpec(UpdateRule):
    """Schedule-free AdamW (Defazio et al. 2024). Use a constant schedule with a warm-up."""

    beta1: Positive = Field(default=0.9, lt=1, description="Share of the average in the trained point.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")

    wide_only: ClassVar[bool] = True


class AdamMiniSpec(UpdateRule):
    """Adam-mini (Zhang et al. 2024): one second moment for a head, a neuron, a token or a vector."""

    beta1: Decay = Field(default=0.9, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")

    moments: ClassVar[int] = 1
    wide_only: ClassVar[bool] = True


class AdamHSpec(UpdateRule):
    """AdamH (Wen et al. 2025): Adam on the sphere of each matrix's norm, without decay; AdamW for the rest."""

    beta1: Decay = Field(default=0.9, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")
    matrix_rate: Positive = Field(
        default=6.0, description="Factor of the learning rate; the product is a share of the norm."
    )

    wide_only: ClassVar[bool] = True


class AdafactorSpec(UpdateRule):
    """Adafactor (Shazeer and Stern 2018): factored second moments, no first. The rate is a share of a parameter's
    size.
    """

    decay_exponent: Positive = Field(default=0.8, description="The decay of moments is 1 - step ** -this.")
    epsilon: Positive = Field(default=1e-30, description="Added to squares of gradients.")
    least_size: Positive = Field(default=1e-3, description="Least root mean square of a parameter for its rate.")
    clip_update: Positive = Field(default=1.0, description="Greatest root mean square of an update.")

    moments: ClassVar[int] = 0
    wide_only: ClassVar[bool] = True


class LionSpec(UpdateRule):
    """Lion (Chen et al. 2023). It needs about a fifth of AdamW's learning rate and five times its weight decay."""

    beta1: Decay = Field(default=0.9, description="Share of the momentum in the direction.")
    beta2: Decay = Field(default=0.99, description="Decay of the momentum.")

    moments: ClassVar[int] = 1


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
    gamma: Positive | None = optional("Factor of the estimate. Default: 0.05, or 0.01 for hutchinson.")
    epsilon: Positive = Field(default=1e-12, description="Least divisor.")
    every_steps: StepCount = Field(default=10, description="Steps between estimates.")

    wide_only: ClassVar[bool] = True


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


class MuonSpec(UpdateRule):
    """Muon (Jordan et al. 2024) for hidden matrices."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    nesterov: bool = Field(default=True, description="Nesterov momentum.")

    moments: ClassVar[int] = 1


class NorMuonSpec(UpdateRule):
    """NorMuon (Li et al. 2025): Muon with one size for the updates of all outputs of a matrix."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")

    moments: ClassVar[int] = 1


class MuonHSpec(UpdateRule):
    """MuonH (Wen et al. 2025): Muon on the sphere of each matrix's norm, without decay."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    matrix_rate: Positive = Field(
        default=6.0, description="Factor of the learning rate; the product is a share of the norm."
    )

    moments: ClassVar[int] = 1


class SoapMuonSpec(UpdateRule):
    """SOAP-Muon (Vyas et al. 2025): Muon of the update that SOAP scales in its eigenbasis."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.9, description="Decay of second moments.")
    every_steps: StepCount = Field(default=1, description="Steps between eigenbases.")

    moments: ClassVar[int] = 6
    least_moments: ClassVar[int | None] = 2


class MuonAdamWSpec(UpdateRule):
    """Muon of nanochat (Karpathy 2026); AdamW without decay for the rest."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.9, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-10, description="Of AdamW.")
    iteration_type: IterationType = Field(default="float32", description="See `matrices`.")

    moments: ClassVar[int] = 1


class SoapSpec(UpdateRule):
    """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo, for hidden matrices."""

    beta1: Decay = Field(default=0.95, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of second moments.")
    every_steps: StepCount = Field(default=10, description="Steps between eigenbases.")

    moments: ClassVar[int] = 6
    least_moments: ClassVar[int | None] = 2


class KronSpec(UpdateRule):
    """PSGD with Kronecker factors (Li 2024), for hidden matrices."""

    momentum: Decay = Field(default=0.9, description="Decay of the momentum.")
    factor_rate: Positive = Field(default=0.1, description="Learning rate of the factors.")
    matrix_rate: Positive = Field(default=0.33, description="Factor of the learning rate.")

    moments: ClassVar[int] = 3
    least_moments: ClassVar[int | None] = 1
    draws: ClassVar[bool] = True


class ScionSpec(UpdateRule):
    """Scion (Pethick et al. 2025): each parameter moves towards the edge of a ball of its own norm."""

    momentum: Decay = Field(default=0.9, description="Decay of the momentum.")
    radius: Positive = Field(default=50.0, description="Radius for hidden matrices.")
    outer_radius: Positive = Field(default=3000.0, description="Radius for embeddings and head.")
    constrained: bool = Field(default=True, description="Stay in the ball, in place of `weightDecay`.")
    matrix_rate: Positive = Field(default=0.1, description="Factor of the learning rate.")

    moments: ClassVar[int] = 1
