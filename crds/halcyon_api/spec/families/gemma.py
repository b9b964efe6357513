"""The families ``gemma``, ``gemma2`` and ``gemma3``: the models of Gemma."""

import dataclasses
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families.decoder import BiasedSection, PatternedSection
from halcyon_api.spec.families.section import AttentionNeeds, DecoderSizes, HiddenAct
from halcyon_api.spec.families.vision import VisionSpec

_LOGITS_DESCRIPTION = "Smooth limit of the logits: limit * tanh(logit / limit). 0: no limit."


class GemmaSpec(BiasedSection):
    """A Gemma decoder (Gemma Team 2024a): norms with a factor of 1 + weight, scaled embeddings, GeGLU, tied
    embeddings.
    """

    family: Literal["gemma"] = "gemma"
    tie_word_embeddings: bool = True
    """Use the token embedding as the output head."""
    hidden_act: HiddenAct = "gelu_pytorch_tanh"

    published: ClassVar = "Gemma 2B and 7B"
    rules: ClassVar = (
        *BiasedSection.rules,
        Rule(
            "self.hiddenAct != 'gelu'",
            "gemma has no exact gelu, because readers of its files take gelu for gelu_pytorch_tanh; set "
            "gelu_pytorch_tanh",
            ".hiddenAct",
        ),
    )


class WindowedGemmaSection(PatternedSection):
    """What the families of Gemma with windows share."""

    tie_word_embeddings: bool = True
    """Use the token embedding as the output head."""
    hidden_act: HiddenAct = "gelu_pytorch_tanh"
    query_pre_attn_scalar: PositiveFloat | None = None
    """Scores of attention are divided by its square root. Default: the features of a head."""


class Gemma2Spec(WindowedGemmaSection):
    """A Gemma 2 decoder (Gemma Team 2024b): a Gemma with norms around each part, soft caps, and a window in every
    other layer.
    """

    family: Literal["gemma2"] = "gemma2"
    attn_logit_softcapping: NonNegativeFloat = 50.0
    """Smooth limit of the scores: limit * tanh(score / limit). 0: no limit."""
    final_logit_softcapping: float = Field(default=30.0, ge=0, description=_LOGITS_DESCRIPTION)

    published: ClassVar = "Gemma 2, 2B to 27B"
    pattern: ClassVar = 2

    @property
    def attention_needs(self) -> AttentionNeeds:
        """See `ModelSection.attention_needs`."""
        return AttentionNeeds(self.head_size, self.head_size, soft_cap=self.attn_logit_softcapping > 0)

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), block_norms=4)


class Gemma3Spec(WindowedGemmaSection):
    """A Gemma 3 (Gemma Team 2025): a Gemma 2 with norms of queries and keys, five windows for each full layer, and
    perhaps images.
    """

    family: Literal["gemma3"] = "gemma3"
    rope_theta: PositiveFloat = 1_000_000.0
    """Base of the rotary frequencies."""
    rope_local_base_freq: PositiveFloat = 10_000.0
    """Base of the rotary frequencies of windowed layers."""
    final_logit_softcapping: float = Field(default=0.0, ge=0, description=_LOGITS_DESCRIPTION)

    vision: VisionSpec | None = optional("Its encoder of images. Not set: text alone.")

    published: ClassVar = "Gemma 3, 270M to 27B"
    pattern: ClassVar = 6

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), block_norms=4, query_norm="head")
