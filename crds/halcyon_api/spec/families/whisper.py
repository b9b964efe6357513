"""The family ``whisper``: Whisper, which writes down speech."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from halcyon_api.base import Rule, shows
from halcyon_api.spec.families.section import Count, HiddenAct, ModelSection, Width
from halcyon_api.spec.model_shape import ModelShape, Split

TAPS = 3
"""Frames that each of the two convolutions sums over."""


class WhisperSpec(ModelSection):
    """An encoder of sound and a decoder of text with cross attention (Radford et al. 2022): speech to text."""

    family: Literal["whisper"] = "whisper"
    num_hidden_layers: Count = 4
    """Transformer blocks."""
    encoder_layers: Count = 4
    """Blocks of the encoder."""
    hidden_size: Width = 384
    """Width of the residual stream."""
    intermediate_size: Width | None = None
    """Width of the MLP. Default: four times `hiddenSize`."""
    num_attention_heads: Count = 6
    """Query heads."""
    encoder_attention_heads: Count | None = None
    """Heads in the encoder. Default: `numAttentionHeads`."""
    encoder_ffn_dim: Width | None = None
    """Width of the encoder's MLP. Default: that of the decoder."""
    num_mel_bins: Annotated[int, Field(ge=1, le=1024)] = 80
    """Features of a frame of sound."""
    max_source_positions: Annotated[int, Field(ge=1, le=65_536)] = 1500
    """Positions of the encoder, 20 ms each."""
    hidden_act: HiddenAct = "gelu"
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the normal initialisation."""

    published: ClassVar = "Whisper tiny to large-v3-turbo"
    rules: ClassVar = (
        Rule(
            "self.hiddenSize % self.numAttentionHeads == 0 && self.hiddenSize % 2 == 0 && self.hiddenSize > 2",
            "hiddenSize must be an even multiple of numAttentionHeads, at least 4",
            ".hiddenSize",
            shows("hiddenSize", "numAttentionHeads"),
        ),
        Rule(
            "!has(self.encoderAttentionHeads) || self.hiddenSize % self.encoderAttentionHeads == 0",
            "hiddenSize must be a multiple of encoderAttentionHeads",
            ".hiddenSize",
            shows("hiddenSize", "encoderAttentionHeads"),
        ),
    )

    @property
    def mlp_size(self) -> int:
        """Width of the decoder's MLP, with the default filled in."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def encoder_mlp(self) -> int:
        """Width of the encoder's MLP, with the default filled in."""
        return self.encoder_ffn_dim or self.mlp_size

    @property
    def encoder_heads(self) -> int:
        """Heads in the encoder, with the default filled in."""
        return self.encoder_attention_heads or self.num_attention_heads

    @property
    def sound(self) -> tuple[int, int]:
        """See `ModelSection.sound`."""
        return 2 * self.max_source_positions, self.num_mel_bins

    @property
    def head_size(self) -> int:
        """Features of a head of the decoder."""
        return self.hidden_size // self.num_attention_heads

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ModelSection.shape`.

        The encoder computes each position of the sound once for a row, so a token has the share of one in `positions`
        of that work, and of the keys and values that cross attention makes of it.
        """
        width, source, mel = self.hidden_size, self.max_source_positions, self.num_mel_bins
        square = width * width
        # Keys have no biases; each map, MLP and norm else has them.
        inner, own = 2 * width * self.encoder_mlp, 2 * width * self.mlp_size
        encoder = 4 * square + 3 * width + inner + self.encoder_mlp + width + 4 * width
        block = 2 * (4 * square + 3 * width) + own + self.mlp_size + width + 6 * width
        convolutions = TAPS * (mel * width + square)
        of_sound = source * (
            self.encoder_layers * (4 * square + inner) + convolutions + self.num_hidden_layers * 2 * square
        )
        scores = 2 * width * source * (self.encoder_layers * source + self.num_hidden_layers * positions)
        return ModelShape(
            width=width,
            blocks=self.num_hidden_layers + self.encoder_layers,
            parameters=self.num_hidden_layers * block
            + self.encoder_layers * encoder
            + convolutions
            + (2 + 4 + source + positions + vocabulary) * width,
            block_parameters=max(block, encoder),
            product_weights=self.num_hidden_layers * (6 * square + own)
            + vocabulary * width
            + -(-of_sound // max(1, positions)),
            attention_width=2 * self.num_hidden_layers * width,
            state_products=-(-scores // max(1, positions)),
            splits=(
                Split("parameters", "hiddenSize", width),
                Split("features", "intermediateSize", self.mlp_size),
                Split("features", "encoderFfnDim", self.encoder_mlp),
                Split("heads", "numAttentionHeads", self.num_attention_heads),
                Split("heads", "encoderAttentionHeads", self.encoder_heads),
            ),
        )
