"""The families ``olmo2`` and ``olmo3``: OLMo."""

import dataclasses
from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.spec.families.decoder import BiasedSection, PatternedSection
from halcyon_api.spec.families.section import DecoderSizes, HiddenAct


class Olmo2Spec(BiasedSection):
    """An OLMo 2 decoder (OLMo Team 2025a): norms after each part, and norms of queries and keys over all heads
    together.
    """

    family: Literal["olmo2"] = "olmo2"
    rope_theta: PositiveFloat = 500_000.0
    """Base of the rotary frequencies."""
    hidden_act: HiddenAct = "silu"

    published: ClassVar = "OLMo 2, 1B to 32B"

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), query_norm="projection")


class Olmo3Spec(PatternedSection):
    """An OLMo 3 decoder (OLMo Team 2025b): an OLMo 2 with three windowed layers for each full one. Only full layers
    scale positions.
    """

    family: Literal["olmo3"] = "olmo3"
    rope_theta: PositiveFloat = 500_000.0
    """Base of the rotary frequencies."""
    rope_local_base_freq: PositiveFloat | None = None
    """Base of the rotary frequencies of windowed layers. Default: `ropeTheta`."""
    hidden_act: HiddenAct = "silu"

    published: ClassVar = "OLMo 3, 7B and 32B"
    pattern: ClassVar = 4

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), query_norm="projection")
