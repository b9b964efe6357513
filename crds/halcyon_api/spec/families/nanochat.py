"""The family ``nanochat``: the decoder of nanochat, whose sizes follow from its depth."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, StringConstraints

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families.section import AttentionNeeds, Count, ModelSection, Width
from halcyon_api.spec.model_shape import ModelShape, Split

ASPECT_RATIO = 64
"""Features of the residual stream for each block."""
DEFAULT_WINDOW = 513
"""A quarter of 2,048 positions before each one, and its own."""
VALUE_GATE_CHANNELS = 12
"""Features of a block's input that decide how much of a value embedding is added."""
SMEAR_CHANNELS = 24
"""Features of an embedding that decide how much of the embedding before it is added."""
SCORE_SCALE = 1.2 * 1.2
"""Factor of the scores, in addition to 1 / sqrt(headDim): queries and keys are each multiplied by 1.2."""
LOGIT_CAP = 15.0
"""Smooth limit of the logits."""
NORM_EPSILON = 2.0**-23
"""Added to the mean square in norms: the distance from 1 to the next float32 number."""

_HEADS = "self.?hiddenSize.orValue(64 * self.depth + self.headDim - 1) / self.headDim"


def derived_width(depth: int, head_dim: int) -> int:
    """The width of a model of this depth: 64 features for each block, rounded up to whole heads."""
    return -(-ASPECT_RATIO * depth // head_dim) * head_dim


class NanochatSpec(ModelSection):
    """A nanochat decoder (Karpathy 2025), with value embeddings."""

    family: Literal["nanochat"] = "nanochat"
    depth: Count = 12
    """Transformer blocks."""
    hidden_size: int | None = optional(ge=SMEAR_CHANNELS, le=1_048_576)
    """Width of the residual stream. Default: 64 * `depth`, in whole heads."""
    head_dim: Width = 128
    """Features of a head."""
    num_key_value_heads: Count | None = None
    """Key and value heads. Default: all heads."""
    window_pattern: Annotated[str, StringConstraints(max_length=64), Field(pattern="^[SL]+$")] = "SSSL"
    """Attention of blocks, repeated: S: a window, L: all; the last is L."""
    sliding_window: int | None = optional(
        f"Positions that a layer with a window sees, its own included. Default: {DEFAULT_WINDOW}.", ge=1, le=16_777_216
    )
    rope_theta: PositiveFloat = 100_000.0
    """Base of the rotary frequencies."""

    published: ClassVar = "nanochat d12 to d34"
    rules: ClassVar = (
        Rule(
            "!has(self.hiddenSize) || self.hiddenSize % self.headDim == 0",
            "hiddenSize must be a multiple of headDim",
            ".hiddenSize",
        ),
        Rule(
            f"!has(self.numKeyValueHeads) || {_HEADS} % self.numKeyValueHeads == 0",
            "numKeyValueHeads must divide the query heads",
            ".numKeyValueHeads",
        ),
        Rule(
            "self.headDim % 2 == 0",
            "headDim must be even",
            ".headDim",
        ),
    )

    @property
    def width(self) -> int:
        """Features of the residual stream, with the default filled in."""
        return self.hidden_size or derived_width(self.depth, self.head_dim)

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.width // self.head_dim

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.num_key_value_heads or self.heads

    @property
    def windows(self) -> tuple[int | None, ...]:
        """For each block the positions that its attention sees; None: all."""
        window, pattern = self.sliding_window or DEFAULT_WINDOW, self.window_pattern
        kinds = [pattern[block % len(pattern)] for block in range(self.depth - 1)] + ["L"]
        return tuple(window if kind == "S" else None for kind in kinds)

    @property
    def with_values(self) -> tuple[bool, ...]:
        """For each block whether it has a value embedding: every other one, the last one included."""
        return tuple((self.depth - 1 - block) % 2 == 0 for block in range(self.depth))

    @property
    def stated_window(self) -> int | None:
        """See `ModelSection.stated_window`."""
        return self.sliding_window if any(self.windows) else None

    @property
    def attention_needs(self) -> AttentionNeeds:
        """See `ModelSection.attention_needs`."""
        return AttentionNeeds(self.head_dim, self.head_dim)

    def scaling_parameters(self, vocabulary: int) -> int:
        """The parameters that the training horizon is a multiple of: those of the blocks, and the output head.

        Args:
            vocabulary: Rows of the head, padding included.
        """
        return self.depth * self._block() + sum(self.with_values) * self._value_gate() + vocabulary * self.width

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ModelSection.shape`.

        With width d, H query heads and K key and value heads of h features, a block has d h (2 H + 2 K) + 8 d² weights
        of products and two factors. Every other block has a value embedding of V K h elements with a gate of 12 K.
        Embedding and head have V d each; the gate of the smear has 24, and two factors are left.
        """
        keys = self.key_value_heads * self.head_dim
        valued = sum(self.with_values)
        products = self.depth * self._block() + valued * self._value_gate() + SMEAR_CHANNELS + vocabulary * self.width
        windowed = sum(window is not None for window in self.windows)
        tables = vocabulary * (self.width + valued * keys)
        further = () if keys == self.width else (Split("parameters", "numKeyValueHeads", keys),)
        return ModelShape(
            width=self.width,
            blocks=self.depth,
            parameters=products + tables + 2 * self.depth + 2,
            block_parameters=self._block() + self._value_gate() + vocabulary * keys + 2,
            product_weights=products,
            attention_width=2 * (self.depth - windowed) * self.width,
            windowed_width=2 * windowed * self.width,
            window=min(next((window for window in self.windows if window is not None), 0), positions),
            splits=(
                Split("parameters", "hiddenSize", self.width),
                *further,
                Split("features", "hiddenSize", 4 * self.width),
                Split("heads", "numKeyValueHeads", self.key_value_heads),
            ),
        )

    def _block(self) -> int:
        """Weights of the products of a block without a value embedding."""
        return 2 * self.width * self.head_dim * (self.heads + self.key_value_heads) + 8 * self.width * self.width

    def _value_gate(self) -> int:
        return VALUE_GATE_CHANNELS * self.key_value_heads
