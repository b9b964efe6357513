"""The family ``apertus``: Apertus."""

import dataclasses
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from halcyon_api.spec.families.decoder import BiasedSection
from halcyon_api.spec.families.section import ACTIVATION_DESCRIPTION, Activation, DecoderSizes

ApertusActivation = Literal["xielu", Activation]


class ApertusSpec(BiasedSection):
    """An Apertus decoder (Hernandez-Cano et al. 2025): a Llama with norms of queries and keys, and an MLP without a
    gate, with xIELU.
    """

    family: Literal["apertus"] = "apertus"
    rope_theta: PositiveFloat = 12_000_000.0
    """Base of the rotary frequencies."""
    rms_norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    hidden_act: ApertusActivation = Field(default="xielu", description=ACTIVATION_DESCRIPTION)

    published: ClassVar = "Apertus 8B and 70B"

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(
            super().sizes(),
            query_norm="head",
            gated=False,
            activation_parameters=2 if self.hidden_act == "xielu" else 0,
        )
