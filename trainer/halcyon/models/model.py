"""The interface of a causal language model, and changes of a model that its class may not know."""

import copy
import dataclasses
import math
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike

from halcyon.host.errors import BadConfiguration
from halcyon.models.axes import POSITION
from halcyon.models.parameters import PRODUCTS, Parameter, Role, parameters
from halcyon.models.partition import divided
from halcyon.models.parts.experts import Experts
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.products import of_head
from halcyon.models.parts.weight import contract
from halcyon.models.pooling import Pooling
from halcyon.models.softmax import Softmax
from halcyon_api.spec.model_shape import ImageShape
from halcyon_api.spec.narrow_products import NarrowProducts


class Inputs(NamedTuple):
    """The inputs of a model; integers (..., position)."""

    tokens: NamedArray
    positions: NamedArray | None = None
    """The position of each token in its text. None: counted from 0 along the axis."""
    segments: NamedArray | None = None
    """The segment of each position; attention stays within it. None: one segment."""
    weights: NamedArray | None = None
    """The weight of each position in statistics over tokens, such as the load of experts: that of its target in the
    loss, 0 for padding. Float32. None: 1. It does not change the features."""
    sound: Any = None
    """What a model that hears hears: the features of a row's sound, float32 (batch, position, mel), with positions of
    their own; or what `halcyon.models.families.whisper.Whisper.heard` makes of them. None for all other models."""
    images: NamedArray | None = None
    """Pixels of the images of each row, 0 to 255: integers (batch, image, row, column, colour). The first ones are
    those that the tokens of the row have places for. None: there are none."""
    seen: NamedArray | None = None
    """In the place of `images`, with a cache: what the encoder made of them, at the positions of their tokens: (batch,
    position, embed)."""


class Outputs(NamedTuple):
    """The outputs of a model."""

    features: NamedArray
    """The input of the output head, after the last norm: (..., position, embed) in the compute type."""
    cache: Any = None
    """Keys and values for later tokens; None for a model that keeps none."""
    aux: dict[str, NamedArray] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    """Further numbers of each sequence by name, float32, such as the load of experts: the axes of the tokens without
    position, and perhaps layers and routes. Empty for dense models."""
    penalty: NamedArray | None = None
    """Added to the loss of each token of a sequence, to be minimised with it: float32 (...), without positions.

    None: nothing is added.
    """


class CausalLM(eqx.Module):
    """A decoder that computes the logits of the next token at every position.

    Every leaf of the tree is a parameter, and all other fields are static. So ``jax.jit``, ``jax.grad`` and checkpoints
    take a model as it is.
    """

    vocab: eqx.AbstractVar[Axis]
    """Tokens, including the padding of the vocabulary."""
    max_position: eqx.AbstractVar[Axis]
    """Positions of the longest sequence."""

    embed: eqx.AbstractVar[Axis]
    """Features of the residual stream."""

    bidirectional: ClassVar[bool] = False
    """Whether it sees the tokens on both sides of a position, and its logits are those of the position itself."""

    tokens: int | None = eqx.field(static=True, default=None, kw_only=True)
    """Tokens of the vocabulary without its padding; `halcyon.models.build_model` sets it.

    None: the vocabulary has no padding.
    """

    products: NarrowProducts | None = eqx.field(static=True, default=None, kw_only=True)
    """Types of the factors of the head's products in a loss; `with_products` sets it.

    None: the compute type.
    """

    score: Linear | None = eqx.field(default=None, kw_only=True)
    """The head of classes: (embed) to (labels). None: the model predicts tokens."""
    pooling: Pooling | None = eqx.field(static=True, default=None, kw_only=True)
    """The features of a text that `score` sees, or that its vector is made of; None: there is none of both."""

    @abstractmethod
    def __call__(self, inputs: Inputs, *, compute_dtype: DTypeLike = jnp.float32) -> Outputs:
        """The features of every position.

        Args:
            inputs: Tokens, positions and segments.
            compute_dtype: Type of activations and matrix products.

        Raises:
            ValueError: The sequence is longer than `max_position`.
        """

    @property
    @abstractmethod
    def head(self) -> NamedArray:
        """The weight of the output head: axes vocab and embed, in any order.

        With tied embeddings, the token embedding.
        """

    @property
    def sound(self) -> tuple[int, int] | None:
        """Frames of a sound that the model hears, and features of a frame; None: it hears none."""
        return None

    @property
    def sight(self) -> ImageShape | None:
        """What the images that the model sees need in a row; None: it sees none."""
        return None

    @property
    def logit_cap(self) -> float | None:
        """Smooth limit of the logits: ``cap * tanh(logit / cap)``. None: no limit."""
        return None

    @property
    def token_count(self) -> int:
        """Tokens of the vocabulary without its padding."""
        return self.vocab.size if self.tokens is None else self.tokens

    @property
    def softmax(self) -> Softmax:
        """What turns the products of features and head into probabilities, for the functions of
        `halcyon.models.log_probs`.
        """
        return Softmax(self.embed, self.vocab, self.logit_cap, self.tokens, self.products)

    def logits(self, features: NamedArray) -> NamedArray:
        """Logits of the next token at every position: (..., position, vocab), float32; minus infinity for the padding
        of the vocabulary.

        Training computes them in blocks instead: see `halcyon.models.log_probs`.
        """
        return self.softmax.logits(divided(self._head_products(features)))

    def _head_products(self, features: NamedArray) -> NamedArray:
        """``head . features``: (..., position, vocab), float32."""
        return contract(features, self.head, self.softmax.embed, into=jnp.float32)

    def states(self, inputs: Inputs, *, compute_dtype: DTypeLike = jnp.float32) -> Outputs:
        """The features of every position after the last norm, before any head."""
        return self(inputs, compute_dtype=compute_dtype)

    def scores(self, pooled: NamedArray) -> NamedArray:
        """The logits of the classes: (..., embed) to (..., labels), of a model with a `score`."""
        head: Any = self.score
        return head(pooled)

    def flops_per_token(self, sequence_length: int) -> int:
        """Floating-point operations, forward and backward, for each token of a training step. A model of your own may
        count better.

        By default six for each weight of a matrix product, the output head included (Chowdhery et al. 2022, appendix
        B). Scores of attention are not counted, and of experts all are.

        Args:
            sequence_length: Tokens of a sequence.
        """
        del sequence_length
        count, has_head = 0, False
        for one in jax.tree.leaves(parameters(self), is_leaf=lambda leaf: isinstance(leaf, Parameter)):
            has_head = has_head or one.role == Role.HEAD
            if one.role in PRODUCTS:
                count += math.prod(axis.size for axis in (*one.stacked, *one.inputs, *one.outputs))
        return 6 * (count if has_head else count + math.prod(axis.size for axis in self.head.axes))

    def require_decoder(self) -> None:
        """Check that the model has the probability of a text.

        Raises:
            BadConfiguration: It is an encoder, or tells classes apart.
        """
        if self.score is not None:
            raise BadConfiguration("a model with labels cannot write or score a text; take one without model.labels")
        if self.bidirectional:
            raise BadConfiguration(
                f"{type(self).__name__} is an encoder, which fills in masked tokens and cannot write or score a text; "
                "take a decoder"
            )

    def _position_axis(self, tokens: NamedArray) -> Axis:
        position = tokens.resolve_axis(POSITION)
        if position.size > self.max_position.size:
            raise ValueError(
                f"a sequence of {position.size} tokens is longer than the model's {self.max_position.size} positions"
            )
        return position


Model = TypeVar("Model")


def with_tokens(model: Model, tokens: int) -> Model:
    """A copy of a model of this number of tokens; see `CausalLM.tokens`. The arrays are the same ones."""
    padded: Any = model
    return _with(model, "tokens", tokens if tokens < padded.vocab.size else None)


def with_pooling(model: Model, pooling: Pooling | None) -> Model:
    """A copy of a model that makes vectors of texts; see `CausalLM.pooling`. The arrays are the same ones."""
    return model if pooling is None else _with(model, "pooling", pooling)


def with_products(model: Model, products: NarrowProducts | None) -> Model:
    """`model` with narrow products (`halcyon.models.parts.products`) in all linear maps between features, in experts,
    and in the output head of a decoder.

    Tables, routers, attention and adapters stay as they are. The arrays are the same ones.

    Args:
        model: A model, or the arrays in its place.
        products: The types and scales. None: `model` itself.
    """
    if products is None:
        return model

    def changed(node: Any) -> Any:
        narrow = isinstance(node, Experts) or (isinstance(node, Linear) and node.role is Role.MATRIX)
        return dataclasses.replace(node, products=products) if narrow else node

    narrowed: Any = jax.tree.map(changed, model, is_leaf=lambda node: isinstance(node, Linear | Experts))
    if isinstance(narrowed, CausalLM):
        narrowed = _with(narrowed, "products", of_head(products))
    return narrowed


def _with(model: Model, field: str, value: Any) -> Model:
    copied = copy.copy(model)
    object.__setattr__(copied, field, value)  # a user's class may have its own __init__
    return copied
