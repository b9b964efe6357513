"""The families ``mistral`` and ``mixtral``."""

from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.spec.families.decoder import DecoderSection, SlidingWindow
from halcyon_api.spec.families.experts import LocalExpertsSection
from halcyon_api.spec.families.section import HiddenAct


class MistralSection(DecoderSection):
    """What the families of Mistral share."""

    rms_norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    hidden_act: HiddenAct = "silu"
    sliding_window: SlidingWindow | None = None
    """Positions that a layer with a window sees, its own included. Default: no window."""


class MistralSpec(MistralSection):
    """A Mistral decoder (Jiang et al. 2023): a Llama whose attention may see only a window."""

    family: Literal["mistral"] = "mistral"

    published: ClassVar = "Mistral 7B, Nemo 12B, Small 22B and 24B (text)"


class MixtralSpec(MistralSection, LocalExpertsSection):
    """A Mixtral decoder (Jiang et al. 2024): a Mistral with experts in every layer."""

    family: Literal["mixtral"] = "mixtral"
    rope_theta: PositiveFloat = 1_000_000.0
    """Base of the rotary frequencies."""

    published: ClassVar = "Mixtral 8x7B and 8x22B"
    rules: ClassVar = LocalExpertsSection.rules
