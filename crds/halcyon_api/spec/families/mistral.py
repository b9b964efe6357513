"""``spec.model.mistral``: Mistral."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.base import optional
from halcyon_api.spec.families.decoder import DecoderSection, SlidingWindow
from halcyon_api.spec.families.section import ACTIVATION_DESCRIPTION, Activation


class MistralSpec(DecoderSection):
    """A Mistral decoder (Jiang et al. 2023): a Llama whose attention may see only a window."""

    rms_norm_eps: float = Field(default=1e-5, gt=0, description="Added to the mean square in RMSNorm.")
    hidden_act: Activation = Field(default="silu", description=ACTIVATION_DESCRIPTION)
    sliding_window: SlidingWindow | None = optional(
        "Positions that attention sees, its own included. Default: all earlier ones."
    )

    published: ClassVar[str] = "Mistral 7B, Nemo 12B, Small 22B and 24B (text)"
