"""Fields that several families share, under the names of Hugging Face's ``config.json`` in camelCase."""

import dataclasses
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat

from halcyon_api.base import Rule, optional, shows
from halcyon_api.spec.families.rope import RopeScaling
from halcyon_api.spec.families.section import Count, DecoderSizes, Labels, ModelSection, Width
from halcyon_api.spec.model_shape import ModelShape

LayerType = Literal["full_attention", "sliding_attention"]
"""Attention to the whole sequence, or to a window."""

DEFAULT_WINDOW = 4096
MOST_FURTHER = 4
"""Most layers that predict further tokens."""

_HEAD_SIZE = "self.?headDim.orValue(self.hiddenSize / self.numAttentionHeads)"


class DecoderSection(ModelSection):
    """A decoder with RMSNorm, rotary positions, grouped-query attention and a gated MLP."""

    num_hidden_layers: Count = 12
    """Transformer blocks."""
    hidden_size: Width = 768
    """Width of the residual stream."""
    intermediate_size: Width = 2048
    """Width of the MLP."""
    num_attention_heads: Count = 12
    """Query heads."""
    num_key_value_heads: Count | None = None
    """Key and value heads. Default: `numAttentionHeads`."""
    head_dim: Width | None = None
    """Features of a head. Default: `hiddenSize` / `numAttentionHeads`."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Change of the rotary frequencies for longer texts."""
    rms_norm_eps: PositiveFloat = 1e-6
    """Added to the mean square in RMSNorm."""
    tie_word_embeddings: bool = False
    """Use the token embedding as the output head."""
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the normal initialisation."""
    num_nextn_predict_layers: int | None = optional(
        "Layers to train that predict further tokens. Not set: those of `from` are kept.", ge=1, le=MOST_FURTHER
    )

    labels: Labels | None = None
    """Names of classes: a head for them takes the place of the output head, for `objective.classify`."""

    default_window: ClassVar[int | None] = None
    """Positions of the window where the document states none."""
    rules: ClassVar = (
        Rule(
            "has(self.headDim) || self.hiddenSize % self.numAttentionHeads == 0",
            "hiddenSize must be a multiple of numAttentionHeads, or headDim set",
            ".hiddenSize",
            shows("hiddenSize", "numAttentionHeads"),
        ),
        Rule(
            "!has(self.numKeyValueHeads) || self.numAttentionHeads % self.numKeyValueHeads == 0",
            "numKeyValueHeads must divide numAttentionHeads",
            ".numKeyValueHeads",
            shows("numKeyValueHeads", "numAttentionHeads"),
        ),
        Rule(
            f"{_HEAD_SIZE} % 2 == 0",
            "a head must have an even number of features, for rotary positions; change headDim or numAttentionHeads",
            ".hiddenSize",
        ),
    )

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Features of a head, with the default filled in."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def layers_by_type(self) -> tuple[str, ...]:
        """The attention of each layer, with the default of the family filled in."""
        stated: list[str] | None = getattr(self, "layer_types", None)
        return tuple(map(self.layer_type, range(self.num_hidden_layers)) if stated is None else stated)

    def layer_type(self, layer: int) -> str:
        """The default attention of a layer, counted from 0. Most families have one kind: a window if there is one."""
        del layer
        return "full_attention" if self.window is None else "sliding_attention"

    @property
    def window(self) -> int | None:
        """Positions that a layer with ``sliding_attention`` sees. Families without windows lack the field."""
        stated: int | None = getattr(self, "sliding_window", None)
        return stated or type(self).default_window

    @property
    def stated_window(self) -> int | None:
        """See `ModelSection.stated_window`."""
        stated: int | None = getattr(self, "sliding_window", None)
        return stated if "sliding_attention" in self.layers_by_type else None

    @property
    def tied(self) -> bool:
        """Whether there is no output head beside the token embedding."""
        return self.tie_word_embeddings or self.labels is not None

    def sizes(self) -> DecoderSizes:
        """The sizes of the model. A family states here which biases and norms it has."""
        return DecoderSizes(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            mlp=self.intermediate_size,
            heads=self.num_attention_heads,
            key_value_heads=self.key_value_heads,
            head_size=self.head_size,
            tied=self.tied,
            windowed_layers=self.layers_by_type.count("sliding_attention"),
            window=self.window or 0,
        )

    @property
    def longer(self) -> Self:
        """The decoder with the layer that would follow: layers that predict further tokens have its form."""
        kinds = self.layers_by_type
        last = next((kind for kind in reversed(kinds) if kind != "linear_attention"), "full_attention")
        stated = {"layer_types": [*kinds, last]} if hasattr(self, "layer_types") else {}
        return self.but(num_hidden_layers=len(kinds) + 1, **stated)

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `without_further`.

        With width d and vocabulary V, each layer that predicts a further token has 2 d^2 + 3 d parameters more than a
        layer, 2 d^2 of them in products, and the d V products of the output head.
        """
        found, width = self.without_further(vocabulary, positions), self.hidden_size
        if not self.num_nextn_predict_layers:
            return self.classifying(found, vocabulary, width)
        more = self.longer.without_further(vocabulary, positions)
        own = {"parameters": 2 * width**2 + 3 * width, "product_weights": 2 * width**2 + vocabulary * width}
        summed = ("blocks", "parameters", "product_weights", "attention_width", "windowed_width", "idle_parameters")
        return dataclasses.replace(
            more,
            **{
                name: (before := getattr(found, name))
                + self.num_nextn_predict_layers * (getattr(more, name) - before + own.get(name, 0))
                for name in summed
            },
        )

    def without_further(self, vocabulary: int, positions: int) -> ModelShape:
        """The shape without layers that predict further tokens; see `DecoderSizes.shape`, which has the formula."""
        found, vision = self.sizes().shape(vocabulary, positions), getattr(self, "vision", None)
        return found if vision is None else vision.added(found, positions)


class BiasedSection(DecoderSection):
    """A decoder whose attention may have biases."""

    attention_bias: bool = False
    """Biases of all four projections of attention."""

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), query_bias=self.attention_bias, output_bias=self.attention_bias)


SlidingWindow = Annotated[int, Field(ge=1, le=16_777_216)]
LayerTypes = Annotated[list[LayerType], Field(max_length=1024)]

LAYER_TYPES_DESCRIPTION = (
    "What mixes positions in each layer: `full_attention`, `sliding_attention` over the window, or, only of "
    "qwen3Next, `linear_attention`: a gated delta net."
)

ONE_TYPE_A_LAYER = Rule(
    "!has(self.layerTypes) || self.layerTypes.size() == self.numHiddenLayers",
    "layerTypes must have one entry for each of the numHiddenLayers layers",
    ".layerTypes",
)


PARTIAL_DESCRIPTION = "The part of each head's features that is rotated."

EVEN_ROTATION = Rule(
    f"int(double({_HEAD_SIZE}) * self.partialRotaryFactor) % 2 == 0",
    "the rotated features of a head, headDim * partialRotaryFactor, must be even: pairs are rotated",
    ".partialRotaryFactor",
)


class PatternedSection(BiasedSection):
    """A decoder whose layers alternate between attention to a window and attention to the whole sequence."""

    sliding_window: SlidingWindow | None = optional(
        f"Positions that a layer with a window sees, its own included. Default: {DEFAULT_WINDOW}."
    )
    layer_types: LayerTypes | None = optional(f"{LAYER_TYPES_DESCRIPTION} Default: the pattern of the family.")

    pattern: ClassVar[int]
    """Each layer whose number, counted from 1, is a multiple of this sees the whole sequence."""
    default_window: ClassVar = DEFAULT_WINDOW
    rules: ClassVar = (*DecoderSection.rules, ONE_TYPE_A_LAYER)

    def layer_type(self, layer: int) -> str:
        """See `DecoderSection.layer_type`."""
        return "sliding_attention" if (layer + 1) % type(self).pattern else "full_attention"
