"""What the sections of all model families share, and the sizes and parameter counts of decoders."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from halcyon_api.base import RuledModel
from halcyon_api.spec.model_shape import ImageShape, ModelShape, Split


@dataclass(frozen=True)
class DecoderSizes:
    """What the number of parameters of a decoder depends on. Sizes are numbers of features unless stated otherwise."""

    layers: int
    width: int
    """Features of the residual stream."""
    mlp: int
    heads: int
    """Query heads."""
    key_value_heads: int
    head_size: int
    tied: bool
    """Whether the token embedding is the output head."""
    block_norms: int = 2
    """Norms of a block over the residual stream's features."""
    embedding_norm: bool = False
    """Norm of embeddings."""
    query_norm: Literal["head", "projection"] | None = None
    """Norms of queries and of keys: over the features of each head, or over those of all heads together."""
    query_bias: bool = False
    """Biases of the projections of queries, keys and values."""
    output_bias: bool = False
    """Bias of attention's output projection."""
    mlp_bias: bool = False
    """Biases of the MLP's projections."""
    gated: bool = True
    """Whether the MLP has a gate. One without has two projections."""
    activation_parameters: int = 0
    """Parameters of a block's activation function."""
    sinks: bool = False
    """A score for each query head without a key or a value."""
    windowed_layers: int = 0
    """Layers whose attention sees only a window."""
    window: int = 0
    """Positions of that window."""
    norm_bias: bool = False
    """Biases of all norms."""
    learned_positions: bool = False
    """A table of positions."""
    heads_field: str = "numKeyValueHeads"
    """The field of the section that sets `key_value_heads`."""

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """The shape of the model; see `ModelSection.shape`.

        With width d, MLP m, H query heads and K key and value heads of h features, a block has d h (2 H + 2 K) + 3 d m
        weights of products (2 d m in an MLP without a gate), the biases and norms that its family has, and the model L
        blocks, one norm, and one table of V d, or two if not tied, and perhaps one of positions.
        """
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        products = self.width * (2 * queries + 2 * keys) + (3 if self.gated else 2) * self.width * self.mlp
        biases = (
            self.query_bias * (queries + 2 * keys)
            + self.output_bias * self.width
            + self.mlp_bias * ((2 if self.gated else 1) * self.mlp + self.width)
        )
        query_norms = {"head": 2 * self.head_size, "projection": queries + keys, None: 0}[self.query_norm]
        norm = (1 + self.norm_bias) * self.width
        norms = query_norms + self.block_norms * norm
        block = products + biases + norms + self.sinks * self.heads + self.activation_parameters
        table = vocabulary * self.width
        tables = (1 if self.tied else 2) * table + self.learned_positions * positions * self.width
        return ModelShape(
            width=self.width,
            blocks=self.layers,
            parameters=self.layers * block + (1 + self.embedding_norm) * norm + tables,
            block_parameters=block,
            product_weights=self.layers * products + table,
            attention_width=2 * (self.layers - self.windowed_layers) * queries,
            windowed_width=2 * self.windowed_layers * queries,
            window=min(self.window, positions),
            splits=(
                Split("parameters", "hiddenSize", self.width),
                Split("features", "intermediateSize", self.mlp),
                Split("heads", self.heads_field, self.key_value_heads),
            ),
        )


Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "relu2"]
"""An activation function, by its name in Hugging Face."""

Width = Annotated[int, Field(ge=1, le=1_048_576)]
Count = Annotated[int, Field(ge=1, le=4096)]
NonNegative = Annotated[int, Field(ge=0, le=4096)]
Labels = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=128)]], Field(max_length=1024)]

ACTIVATION_DESCRIPTION = (
    "Activation of the MLP. `gelu` is exact; `gelu_pytorch_tanh` and `gelu_new`: its tanh form; `xielu`, only of "
    "apertus: two learned numbers in each layer."
)
HiddenAct = Annotated[Activation, Field(description=ACTIVATION_DESCRIPTION)]


@dataclass(frozen=True)
class AttentionNeeds:
    """What a model's attention requires of its implementation (``trainer.attention``)."""

    head_size: int
    """Features of a head's queries and keys."""
    value_size: int
    """Features of a head's values."""
    soft_cap: bool = False
    """A smooth limit of the scores."""


class ModelSection(RuledModel):
    """The architecture of one model family. Other code uses `shape` instead of the fields of a family."""

    family: Any
    """The family decides the other fields."""

    published: ClassVar[str]
    """The published models of the family."""
    whole_sequences: ClassVar[bool] = False
    """Whether each device needs whole sequences, and there are no weights of keys."""
    encoder: ClassVar[bool] = False
    """Whether it sees the tokens on both sides, and fills in masked ones."""

    @model_serializer(mode="wrap")
    def _with_family(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A document without defaults has the family too."""
        return {"family": self.family, **write(self)}

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """The size of the model.

        Args:
            vocabulary: Rows of the embedding, padding included.
            positions: Tokens of the longest sequence.
        """
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the model tells apart; empty for a model of tokens."""
        return tuple(getattr(self, "labels", None) or ())

    def classifying(self, found: ModelShape, vocabulary: int, width: int) -> ModelShape:
        """A shape with the head of classes in the place of the output head, if the model has one. The shape is that of
        tied embeddings."""
        if not self.classes:
            return found
        head = len(self.classes) * (width + type(self).encoder)
        products = found.product_weights - vocabulary * width
        return dataclasses.replace(found, parameters=found.parameters + head, product_weights=products)

    @property
    def stated_window(self) -> int | None:
        """The sliding window that the document states, in positions; None if it states none, or no layer uses it."""
        return None

    @property
    def attention_needs(self) -> AttentionNeeds | None:
        """What the attention of the model requires; None if the section does not show it."""
        size: int | None = getattr(self, "head_size", None)
        return None if size is None else AttentionNeeds(size, size)

    @property
    def sound(self) -> tuple[int, int] | None:
        """Frames of the sound that a row of a model that hears has, and features of a frame; None: it hears none."""
        return None

    @property
    def sight(self) -> ImageShape | None:
        """The images that a row of a model that sees has; None: it sees none."""
        vision: Any = getattr(self, "vision", None)
        return None if vision is None else vision.sight
