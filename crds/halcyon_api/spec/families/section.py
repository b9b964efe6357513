"""What the sections of all model families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from halcyon_api.base import Rule, RuledModel, shows
from halcyon_api.spec.model_shape import ModelShape

Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "relu2"]
"""An activation function, by its name in Hugging Face."""

Width = Annotated[int, Field(ge=1, le=1_048_576)]
Count = Annotated[int, Field(ge=1, le=4096)]
NonNegative = Annotated[int, Field(ge=0, le=4096)]

ACTIVATION_DESCRIPTION = (
    "Activation function of the MLP. `gelu` is exact; `gelu_pytorch_tanh` and `gelu_new` are its tanh form."
)

HEADS_DIVIDE_WIDTH = Rule(
    "self.hiddenSize % self.heads == 0",
    lambda self: self.hidden_size % self.heads == 0,
    "hiddenSize must be a multiple of heads",
    ".hiddenSize",
    shows("hiddenSize", "heads"),
)


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

    published: ClassVar[str]
    """The published models of the family."""

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """The size of the model.

        Args:
            vocabulary: Rows of the embedding, padding included.
            positions: Tokens of the longest sequence.
        """
        raise NotImplementedError

    @property
    def stated_window(self) -> int | None:
        """The sliding window that the document states, in positions; None if it states none, or no layer uses it."""
        return None

    @property
    def attention_needs(self) -> AttentionNeeds | None:
        """What the attention of the model requires; None if the section does not show it."""
        return None
