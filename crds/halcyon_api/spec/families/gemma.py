"""``spec.model.gemma``, ``gemma2`` and ``gemma3``: the text models of Gemma."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pydantic import Field

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families.decoder import BiasedSection, PatternedSection
from halcyon_api.spec.families.section import ACTIVATION_DESCRIPTION, Activation, AttentionNeeds, DecoderSizes

_SCALAR_DESCRIPTION = "Scores of attention are divided by its square root. Default: the features of a head."
_LOGITS_DESCRIPTION = "Smooth limit of the logits: limit * tanh(logit / limit). 0: no limit."


class GemmaSpec(BiasedSection):
    """A Gemma decoder (Gemma Team 2024a): norms with a factor of 1 + weight, scaled embeddings, GeGLU, tied
    embeddings.
    """

    tie_word_embeddings: bool = Field(default=True, description="Use the token embedding as the output head.")
    hidden_act: Activation = Field(default="gelu_pytorch_tanh", description=ACTIVATION_DESCRIPTION)

    published: ClassVar[str] = "Gemma 2B and 7B"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BiasedSection.rules,
        Rule(
            "self.hiddenAct != 'gelu'",
            lambda self: self.hidden_act != "gelu",
            "gemma has no exact gelu, because readers of its files take gelu for gelu_pytorch_tanh; set "
            "gelu_pytorch_tanh",
            ".hiddenAct",
        ),
    )


class Gemma2Spec(PatternedSection):
    """A Gemma 2 decoder (Gemma Team 2024b): a Gemma with norms around each part, soft caps, and a window in every
    other layer.
    """

    tie_word_embeddings: bool = Field(default=True, description="Use the token embedding as the output head.")
    hidden_activation: Activation = Field(default="gelu_pytorch_tanh", description=ACTIVATION_DESCRIPTION)
    query_pre_attn_scalar: float | None = optional(_SCALAR_DESCRIPTION, gt=0)
    attn_logit_softcapping: float = Field(
        default=50.0, ge=0, description="Smooth limit of the scores: limit * tanh(score / limit). 0: no limit."
    )
    final_logit_softcapping: float = Field(default=30.0, ge=0, description=_LOGITS_DESCRIPTION)

    published: ClassVar[str] = "Gemma 2, 2B to 27B"
    pattern: ClassVar[int] = 2

    @property
    def attention_needs(self) -> AttentionNeeds:
        """See `ModelSection.attention_needs`."""
        return dataclasses.replace(super().attention_needs, soft_cap=self.attn_logit_softcapping > 0)

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), block_norms=4)


class Gemma3Spec(PatternedSection):
    """A Gemma 3 text decoder (Gemma Team 2025): a Gemma 2 with norms of queries and keys, and five windows for each
    full layer.
    """

    rope_theta: float = Field(default=1_000_000.0, gt=0, description="Base of the rotary frequencies of full layers.")
    rope_local_base_freq: float = Field(
        default=10_000.0, gt=0, description="Base of the rotary frequencies of windowed layers."
    )
    tie_word_embeddings: bool = Field(default=True, description="Use the token embedding as the output head.")
    hidden_activation: Activation = Field(default="gelu_pytorch_tanh", description=ACTIVATION_DESCRIPTION)
    query_pre_attn_scalar: float | None = optional(_SCALAR_DESCRIPTION, gt=0)
    final_logit_softcapping: float = Field(default=0.0, ge=0, description=_LOGITS_DESCRIPTION)

    published: ClassVar[str] = "Gemma 3, 270M to 27B (text)"
    pattern: ClassVar[int] = 6

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), block_norms=4, query_norm="head")
