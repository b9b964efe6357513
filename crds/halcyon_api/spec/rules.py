"""The update rules of ``spec.optimizer``: one class with the settings of each rule."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from halcyon_api.base import ApiModel, StepCount

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of the old value that a moving average keeps in each step."""


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


class AdamRule(UpdateRule):
    """What AdamW and the rules that change only its update share."""

    beta1: Decay = 0.9
    """Decay of the first moment."""
    beta2: Decay = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root."""


class AdamWSpec(AdamRule):
    """AdamW (Loshchilov and Hutter 2019)."""

    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    cautious: bool | None = None
    """Change only elements whose gradient has the sign of the update (Liang et al. 2024)."""
    corrected_decay: bool | None = None
    """Decay of all matrices but the head falls with the rate (AdamC, Defazio 2025)."""
    clip_update: PositiveFloat | None = None
    """Largest root mean square of a parameter's update, before the rate (Shazeer and Stern 2018)."""


class AdoptSpec(UpdateRule):
    """ADOPT (Taniguchi et al. 2024): the second moment of the steps before divides the gradient."""

    beta1: Decay = 0.9
    """Decay of the first moment."""
    beta2: Decay = 0.9999
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-6
    """Least divisor."""

    wide_only: ClassVar = True


class MarsSpec(UpdateRule):
    """MARS-AdamW (Yuan et al. 2024): AdamW of gradients whose variance the last gradient reduces."""

    beta1: Decay = 0.95
    """Decay of the first moment."""
    beta2: Decay = 0.99
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root."""
    gamma: PositiveFloat = 0.025
    """Scale of the reduction."""

    moments: ClassVar = 3
    wide_only: ClassVar = True


class AdamMiniSpec(AdamRule):
    """Adam-mini (Zhang et al. 2024): one second moment for a head, a neuron, a token or a vector."""

    moments: ClassVar = 1
    wide_only: ClassVar = True


class AdamHSpec(AdamRule):
    """AdamH (Wen et al. 2025): Adam on the sphere of each matrix's norm, without decay; AdamW for the rest."""

    matrix_rate: PositiveFloat = 6.0
    """Factor of the learning rate; the product is a share of the norm."""

    wide_only: ClassVar = True


class AdafactorSpec(UpdateRule):
    """Adafactor (Shazeer and Stern 2018): factored second moments, no first. The rate is a share of a parameter's
    size.
    """

    decay_exponent: PositiveFloat = 0.8
    """The decay of moments is 1 - step ** -this."""
    epsilon: PositiveFloat = 1e-30
    """Added to squares of gradients."""
    least_size: PositiveFloat = 1e-3
    """Least root mean square of a parameter for its rate."""
    clip_update: PositiveFloat = 1.0
    """Greatest root mean square of an update."""

    moments: ClassVar = 0
    wide_only: ClassVar = True


class LionSpec(UpdateRule):
    """Lion (Chen et al. 2023). It needs about a fifth of AdamW's learning rate and five times its weight decay."""

    beta1: Decay = 0.9
    """Share of the momentum in the direction."""
    beta2: Decay = 0.99
    """Decay of the momentum."""

    moments: ClassVar = 1


Estimator = Literal["gaussNewton", "hutchinson"]
"""Estimators of the Hessian's diagonal."""


class SophiaSpec(UpdateRule):
    """Sophia (Liu et al. 2023): momentum over an estimate of the Hessian's diagonal, clipped."""

    estimator: Estimator = "gaussNewton"
    """Sophia-G: by tokens that the model samples. Sophia-H: by products with the Hessian."""
    beta1: Decay = 0.965
    """Decay of the momentum."""
    beta2: Decay = 0.99
    """Decay of the estimate."""
    gamma: PositiveFloat | None = None
    """Factor of the estimate. Default: 0.05, or 0.01 for hutchinson."""
    epsilon: PositiveFloat = 1e-12
    """Least divisor."""
    every_steps: StepCount = 10
    """Steps between estimates."""

    wide_only: ClassVar = True


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

    learning_rate: PositiveFloat = 1.0
    """Factor of the learning rate."""
    beta1: Decay = 0.9
    """Decay of the first moment."""
    beta2: Decay = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """See `adamw`."""


class MatricesSpec(ApiModel):
    """Settings of the rules for hidden matrices: muon, normuon, muonH, soap, soapMuon, kron, scion."""

    coefficients: Coefficients = "polarExpress"
    """Polynomials of the orthogonalisation."""
    iterations: int = Field(default=5, ge=1, le=20)
    """Its iterations."""
    iteration_type: IterationType = "float32"
    """Type of its products."""
    scaling: Scaling = "moonlight"
    """Scale of orthogonal updates."""
    cautious: bool = False
    """Decay matrices only where the update has the sign of the weight."""
    others: OthersSpec = Field(default_factory=OthersSpec)
    """AdamW of all other parameters; not for `scion`."""


class MuonSpec(UpdateRule):
    """Muon (Jordan et al. 2024) for hidden matrices."""

    momentum: Decay = 0.95
    """Decay of the momentum."""
    nesterov: bool = True
    """Nesterov momentum."""

    moments: ClassVar = 1


class NorMuonSpec(UpdateRule):
    """NorMuon (Li et al. 2025): Muon with one size for the updates of all outputs of a matrix."""

    momentum: Decay = 0.95
    """Decay of the momentum."""
    beta2: Decay = 0.95
    """Decay of the second moment."""

    moments: ClassVar = 1


class MuonHSpec(UpdateRule):
    """MuonH (Wen et al. 2025): Muon on the sphere of each matrix's norm, without decay."""

    momentum: Decay = 0.95
    """Decay of the momentum."""
    matrix_rate: PositiveFloat = 6.0
    """Factor of the learning rate; the product is a share of the norm."""

    moments: ClassVar = 1


class SoapMuonSpec(UpdateRule):
    """SOAP-Muon (Vyas et al. 2025): Muon of the update that SOAP scales in its eigenbasis."""

    momentum: Decay = 0.95
    """Decay of the momentum."""
    beta2: Decay = 0.9
    """Decay of second moments."""
    every_steps: StepCount = 1
    """Steps between eigenbases."""

    moments: ClassVar = 6
    least_moments: ClassVar = 2


class MuonAdamWSpec(UpdateRule):
    """Muon of nanochat (Karpathy 2026); AdamW without decay for the rest."""

    momentum: Decay = 0.95
    """Decay of the momentum."""
    beta2: Decay = 0.9
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-10
    """Of AdamW."""
    iteration_type: IterationType = "float32"
    """See `matrices`."""

    moments: ClassVar = 1


class SoapSpec(UpdateRule):
    """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo, for hidden matrices."""

    beta1: Decay = 0.95
    """Decay of the first moment."""
    beta2: Decay = 0.95
    """Decay of second moments."""
    every_steps: StepCount = 10
    """Steps between eigenbases."""

    moments: ClassVar = 6
    least_moments: ClassVar = 2


class KronSpec(UpdateRule):
    """PSGD with Kronecker factors (Li 2024), for hidden matrices."""

    momentum: Decay = 0.9
    """Decay of the momentum."""
    factor_rate: PositiveFloat = 0.1
    """Learning rate of the factors."""
    matrix_rate: PositiveFloat = 0.33
    """Factor of the learning rate."""

    moments: ClassVar = 3
    least_moments: ClassVar = 1
    draws: ClassVar = True


class ScionSpec(UpdateRule):
    """Scion (Pethick et al. 2025): each parameter moves towards the edge of a ball of its own norm."""

    momentum: Decay = 0.9
    """Decay of the momentum."""
    radius: PositiveFloat = 50.0
    """Radius for hidden matrices."""
    outer_radius: PositiveFloat = 3000.0
    """Radius for embeddings and head."""
    constrained: bool = True
    """Stay in the ball, in place of `weightDecay`."""
    matrix_rate: PositiveFloat = 0.1
    """Factor of the learning rate."""

    moments: ClassVar = 1
