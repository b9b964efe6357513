"""``ropeScaling``: rotary frequencies for texts that are longer than those of the first training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from halcyon_api.base import Rule, RuledModel, optional

RopeType = Literal["default", "linear", "llama3", "yarn"]


class RopeScaling(RuledModel):
    """Changes the frequencies of rotary positions. Fields and formulas are those of Hugging Face's `rope_scaling`."""

    rope_type: RopeType = Field(
        description=(
            "`linear`: all frequencies / `factor`. `llama3`: only the low ones. `yarn`: a ramp between both (Peng et "
            "al. 2023)."
        )
    )
    factor: float | None = optional("How many times longer the texts are.", ge=1)
    original_max_position_embeddings: int | None = optional(
        "Longest text of the first training, in tokens.", ge=1, le=16_777_216
    )
    low_freq_factor: float | None = optional("`llama3`: with fewer turns, divided. Default: 1.", gt=0)
    high_freq_factor: float | None = optional("`llama3`: with more turns, not divided. Default: 4.", gt=0)
    beta_fast: float | None = optional("`yarn`: turns at the end of the ramp. Default: 32.", gt=0)
    beta_slow: float | None = optional("`yarn`: turns at its start. Default: 1.", gt=0)
    attention_factor: float | None = optional("`yarn`: factor of queries and keys. Default: 0.1 ln factor + 1.", gt=0)
    mscale: float | None = optional("`yarn`: numerator of another default of `attentionFactor`.", gt=0)
    mscale_all_dim: float | None = optional("`yarn`: its denominator.", gt=0)
    truncate: bool | None = optional("`yarn`: round the ends of the ramp. Default: true.")

    rules: ClassVar = (
        Rule(
            "self.ropeType == 'default' || has(self.factor)",
            lambda self: self.rope_type == "default" or self.factor is not None,
            "ropeScaling needs a factor; give one, or take ropeType default",
            ".factor",
        ),
        Rule(
            "!(self.ropeType in ['llama3', 'yarn']) || has(self.originalMaxPositionEmbeddings)",
            lambda self: self.rope_type not in ("llama3", "yarn") or self.original_max_position_embeddings is not None,
            "ropeScaling of type llama3 or yarn needs originalMaxPositionEmbeddings",
            ".originalMaxPositionEmbeddings",
        ),
        Rule(
            "self.ropeType != 'llama3' || self.?lowFreqFactor.orValue(1.0) < self.?highFreqFactor.orValue(4.0)",
            lambda self: self.rope_type != "llama3" or (self.low_freq_factor or 1.0) < (self.high_freq_factor or 4.0),
            "lowFreqFactor must be less than highFreqFactor",
            ".lowFreqFactor",
        ),
    )
