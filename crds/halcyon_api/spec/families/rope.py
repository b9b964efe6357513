"""``ropeScaling``: rotary frequencies for texts that are longer than those of the first training."""

from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.base import Rule, RuledModel, optional

RopeType = Literal["default", "linear", "llama3", "yarn"]


class RopeScaling(RuledModel):
    """Changes the frequencies of rotary positions. Fields and formulas are those of Hugging Face's `rope_scaling`."""

    rope_type: RopeType
    """`linear`: all frequencies / `factor`. `llama3`: only the low ones. `yarn`: a ramp between both (Peng et al.
    2023)."""
    factor: float | None = optional(ge=1)
    """How many times longer the texts are."""
    original_max_position_embeddings: int | None = optional(ge=1, le=16_777_216)
    """Longest text of the first training, in tokens."""
    low_freq_factor: PositiveFloat | None = None
    """`llama3`: with fewer turns, divided. Default: 1."""
    high_freq_factor: PositiveFloat | None = None
    """`llama3`: with more turns, not divided. Default: 4."""
    beta_fast: PositiveFloat | None = None
    """`yarn`: turns at the end of the ramp. Default: 32."""
    beta_slow: PositiveFloat | None = None
    """`yarn`: turns at its start. Default: 1."""
    attention_factor: PositiveFloat | None = None
    """`yarn`: factor of queries and keys. Default: 0.1 ln factor + 1."""
    mscale: PositiveFloat | None = None
    """`yarn`: numerator of another default of `attentionFactor`."""
    mscale_all_dim: PositiveFloat | None = None
    """`yarn`: its denominator."""
    truncate: bool | None = None
    """`yarn`: round the ends of the ramp. Default: true."""

    rules: ClassVar = (
        Rule(
            "self.ropeType == 'default' || has(self.factor)",
            "ropeScaling needs a factor; give one, or take ropeType default",
            ".factor",
        ),
        Rule(
            "!(self.ropeType in ['llama3', 'yarn']) || has(self.originalMaxPositionEmbeddings)",
            "ropeScaling of type llama3 or yarn needs originalMaxPositionEmbeddings",
            ".originalMaxPositionEmbeddings",
        ),
        Rule(
            "self.ropeType != 'llama3' || self.?lowFreqFactor.orValue(1.0) < self.?highFreqFactor.orValue(4.0)",
            "lowFreqFactor must be less than highFreqFactor",
            ".lowFreqFactor",
        ),
    )
