"""The families ``deepseekV3``, DeepSeek V3, and ``glm4Moe``, GLM 4.5. Both have the routers of DeepSeek V3."""

import dataclasses
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from halcyon_api.base import Rule, shows
from halcyon_api.spec.families.decoder import EVEN_ROTATION, PARTIAL_DESCRIPTION
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection, per_token_rule
from halcyon_api.spec.families.section import AttentionNeeds, Count, DecoderSizes, HiddenAct, NonNegative, Width
from halcyon_api.spec.model_shape import ModelShape, Split

ROUTER_RULES = (
    per_token_rule("nRoutedExperts"),
    Rule(
        "self.nRoutedExperts % self.nGroup == 0",
        "nGroup must divide nRoutedExperts",
        ".nGroup",
        shows("nGroup", "nRoutedExperts"),
    ),
    Rule(
        "self.topkGroup <= self.nGroup && self.numExpertsPerTok * self.nGroup <= self.nRoutedExperts * self.topkGroup",
        "topkGroup must be at most nGroup, and that many groups must have numExpertsPerTok experts",
        ".topkGroup",
        shows("topkGroup", "nGroup", "numExpertsPerTok", "nRoutedExperts"),
    ),
)
"""Rules of the fields of routers and experts."""


class CorrectedSection(ExpertsSection):
    """A decoder with a corrected sigmoid router, groups of experts and shared experts, and MLPs in its first layers."""

    intermediate_size: Width = 2048
    """Width of the MLP of the first layers."""
    hidden_act: HiddenAct = "silu"
    moe_intermediate_size: Width = 768
    """Width of an expert."""
    n_routed_experts: Count = 64
    """Experts of a layer that a router chooses from."""
    n_shared_experts: NonNegative = 1
    """Experts of a layer that every token goes to."""
    num_experts_per_tok: Count = 8
    """Experts that a token goes to."""
    n_group: Count = 1
    """Equal groups of experts."""
    topk_group: Count = 1
    """Groups from which the experts of a token are chosen."""
    norm_topk_prob: bool = True
    """Whether the weights of a token's experts are divided by their sum."""
    routed_scaling_factor: PositiveFloat = 1.0
    """Factor of the weights of a token's experts."""
    first_k_dense_replace: NonNegative = 1
    """Layers, from the first, that have an MLP in the place of experts."""

    router_correction_coef: NonNegativeFloat = 0.0
    """Factor of a gradient that moves the corrections of the routers' scores against the load of the experts, by the
    update rule of the optimizer. 0: the corrections stay."""

    rules: ClassVar = (*ExpertsSection.rules, *ROUTER_RULES)

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`."""
        return ExpertSizes(
            experts=self.n_routed_experts,
            per_token=self.num_experts_per_tok,
            mlp=self.moe_intermediate_size,
            with_experts=tuple(layer >= self.first_k_dense_replace for layer in range(self.num_hidden_layers)),
            shared=self.n_shared_experts * self.moe_intermediate_size,
            correction=True,
            expert_field="nRoutedExperts",
        )


class Glm4MoeSpec(CorrectedSection):
    """A GLM 4.5 decoder (GLM Team 2025): grouped-query attention that rotates a part of each head, and the routers
    of DeepSeek V3.
    """

    family: Literal["glm4Moe"] = "glm4Moe"
    rms_norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    attention_bias: bool = False
    """Biases of the projections of queries, keys and values."""
    use_qk_norm: bool = False
    """Norms of each head's queries and keys."""
    partial_rotary_factor: float = Field(default=0.5, gt=0, le=1, description=PARTIAL_DESCRIPTION)

    published: ClassVar = "GLM 4.5, 4.5 Air, 4.6 and 4.7"
    rules: ClassVar = (*CorrectedSection.rules, EVEN_ROTATION)

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(
            super().sizes(), query_bias=self.attention_bias, query_norm="head" if self.use_qk_norm else None
        )


class DeepseekV3Spec(CorrectedSection):
    """A DeepSeek V3 or Kimi K2 decoder (DeepSeek-AI 2024): latent attention, corrected sigmoid routers, shared
    experts.
    """

    family: Literal["deepseekV3"] = "deepseekV3"
    num_key_value_heads: Count | None = None
    """Must be `numAttentionHeads`, its default."""
    head_dim: Width | None = None
    """Not used: `qkNopeHeadDim` + `qkRopeHeadDim` is in its place."""
    attention_bias: bool = False
    """Biases of the projections to latent vectors and into the residual stream."""
    q_lora_rank: Width | None = None
    """Features of the latent vector of queries. Default: queries are projected from the residual stream."""
    kv_lora_rank: Width = 512
    """Features of the latent vector of keys and values."""
    qk_nope_head_dim: Width = 128
    """Features of a head's queries and keys that are not rotated."""
    qk_rope_head_dim: Width = 64
    """Features of a head's queries and keys that are rotated."""
    v_head_dim: Width = 128
    """Features of a head's values."""
    rope_interleave: bool = True
    """Whether rotated pairs are neighbours in the files of Hugging Face. Changes only import and export."""

    rules: ClassVar = (
        *ROUTER_RULES,
        Rule(
            "!has(self.numKeyValueHeads) || self.numKeyValueHeads == self.numAttentionHeads",
            "numKeyValueHeads must be numAttentionHeads, because latent attention has keys for every head",
            ".numKeyValueHeads",
        ),
        Rule(
            "self.qkRopeHeadDim % 2 == 0",
            "qkRopeHeadDim must be even, because rotary positions rotate pairs of features",
            ".qkRopeHeadDim",
        ),
    )

    published: ClassVar = "DeepSeek V3 and R1, Kimi K2, Moonlight 16B-A3B"

    @property
    def head_size(self) -> int:
        """Features of a head's queries and keys."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def attention_needs(self) -> AttentionNeeds:
        """See `ModelSection.attention_needs`."""
        return AttentionNeeds(self.head_size, self.v_head_dim)

    def without_further(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ExpertSizes.shape`. Attention is counted here.

        With width d, H heads, ranks q and r, and plain, rotated and value features p, t and v of a head, attention has
        q (d + 1 + H (p + t)) weights for queries (d H (p + t) without a rank), d (r + t) + r + r H (p + v) for keys and
        values, and H v d for the output. The norms of the ranks, q + r of them, are no products, and neither are the
        biases, q + r + t + d, if there are any.
        """
        width, heads, rank = self.hidden_size, self.num_attention_heads, self.kv_lora_rank
        queries = heads * self.head_size
        of_queries = width * queries if self.q_lora_rank is None else self.q_lora_rank * (width + queries)
        of_keys = width * (rank + self.qk_rope_head_dim) + rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        products = of_queries + of_keys + heads * self.v_head_dim * width
        biases = self.attention_bias * ((self.q_lora_rank or 0) + rank + self.qk_rope_head_dim + width)
        block = products + biases + (self.q_lora_rank or 0) + rank + 2 * width
        layers, table = self.num_hidden_layers, vocabulary * width
        attention = ModelShape(
            width=width,
            blocks=layers,
            parameters=layers * block + width + (1 if self.tie_word_embeddings else 2) * table,
            block_parameters=block,
            product_weights=layers * products + table,
            attention_width=layers * heads * (self.head_size + self.v_head_dim),
            splits=(Split("parameters", "hiddenSize", width), Split("heads", "numAttentionHeads", heads)),
        )
        return self.experts().shape(self.sizes(), attention, vocabulary, positions)
