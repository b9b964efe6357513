"""``spec.average``: an average of the parameters over the steps, kept beside them."""

from typing import Annotated

from pydantic import Field

from halcyon_api.base import ApiModel, OneOf, StepCount, StepNumber

Decay = Annotated[float, Field(gt=0, lt=1)]


class EmaSpec(ApiModel):
    """Exponential moving average with a fixed decay."""

    decay: Decay = 0.999
    """Share of the old average in each step."""


class EmaSqrtSpec(ApiModel):
    """Exponential moving average whose decay then grows to 1 with the square root of the steps."""

    decay: Decay = 0.999
    """Share of the old average in each step until `fromStep`."""
    from_step: StepNumber
    """Steps done when the decay begins to grow."""
    steps: StepCount
    """Steps until it is 1 and the average stays."""


class LastKSpec(ApiModel):
    """Mean of the last models (LAWA, Kaddour 2022)."""

    models: Annotated[int, Field(ge=2, le=64)] = 6
    """Number of models. Each needs the memory of the parameters."""
    every_steps: StepCount
    """Steps between two models."""


class AverageSpec(OneOf):
    """An average of the parameters: exactly one member."""

    ema: EmaSpec | None = None
    """Exponential moving average."""
    ema_sqrt: EmaSqrtSpec | None = None
    """Exponential moving average that ends with the square root."""
    last_k: LastKSpec | None = None
    """Mean of the last models."""
