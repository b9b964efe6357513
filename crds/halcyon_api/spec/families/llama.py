"""The family ``llama``: Llama."""

import dataclasses
from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.spec.families.decoder import BiasedSection
from halcyon_api.spec.families.section import DecoderSizes, HiddenAct


class LlamaSpec(BiasedSection):
    """A Llama decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    family: Literal["llama"] = "llama"
    rms_norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    hidden_act: HiddenAct = "silu"
    mlp_bias: bool = False
    """Biases of the MLP's three projections."""
    hybrid_norm: bool = False
    """Norms after attention and MLP too."""
    input_embedding_norm: bool = False
    """A norm of embeddings."""

    published: ClassVar = "Llama 2, 3, 3.1, 3.2 (text), 3.3"

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(
            super().sizes(),
            mlp_bias=self.mlp_bias,
            block_norms=4 if self.hybrid_norm else 2,
            embedding_norm=self.input_embedding_norm,
        )
