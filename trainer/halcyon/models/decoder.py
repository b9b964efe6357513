"""The decoder of all families that are made of norms, rotary positions, attention and MLPs or experts.

A family's file says in a `Design` what its decoder is made of; `Decoder` builds and computes it. Blocks with parameters
of one form are a stack: most decoders have one, those with experts or gated delta nets in some layers have up to four.
The blocks are computed in the order of the design. Their kinds, a window and a rotation each, decide how a block
attends.

The output head of every decoder is its token embedding, or a linear map of its own. Each decoder declares both parts
itself, before and after its blocks, because the order of the fields is the order of the leaves: sums over all leaves,
such as the norm of the gradient, are added in that order.
"""

# Without `from __future__ import annotations`: Equinox takes an abstract variable whose annotation is a text for a
# field.

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import EMBED, LAYERS, PAIR, ahead, elementwise, is_named, with_array
from halcyon.models.cache import Cache, FixedState, Layers, Memory, PositionState, group_name
from halcyon.models.design import BlockKind, Design, LayersInit, masks_and_rotations, mlp_of
from halcyon.models.dropout import WithSites
from halcyon.models.int8 import Int8Embedding, Int8Linear, int8_product
from halcyon.models.layer_kinds import STACKS, LayerKind
from halcyon.models.mixed_stacks import scan_stacks
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.mlp import Mlp
from halcyon.models.parts.moe import reported
from halcyon.models.parts.norm import Norm, RmsNorm
from halcyon.models.parts.weight import add_wide
from halcyon.models.stack import Stack


class TokenDecoder(CausalLM, WithSites):
    """A decoder whose output head is its token embedding, or a linear map."""

    embedding: eqx.AbstractVar[Embedding]
    untied_head: eqx.AbstractVar[Linear | None]
    """None: the head is the token embedding."""
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)

    @property
    @abstractmethod
    def kept(self) -> tuple[PositionState | FixedState, ...]:
        """What each layer keeps in a cache, in order."""

    def new_cache(self, rows: int, length: int, dtype: DTypeLike, *, pages: int | None = None) -> Cache:
        """An empty cache for this model; see `Cache.of`.

        Raises:
            ValueError: The rows are longer than `max_position`.
        """
        if length > self.max_position.size:
            raise ValueError(
                f"a cache of {length} tokens is longer than the model's {self.max_position.size} positions"
            )
        return Cache.of(self.kept, rows, length, dtype, pages=pages)

    def _head_products(self, features: NamedArray) -> NamedArray:
        """See `CausalLM._head_products`. A head in 8 bits is never converted as a whole."""
        head: Any = self.embedding if self.untied_head is None else self.untied_head
        if not isinstance(head, Int8Linear | Int8Embedding):
            return super()._head_products(features)
        return int8_product(features, head.rows, head.scale, (self.embed,))

    @property
    def head(self) -> NamedArray:
        """(vocab, embed) if tied, else (embed, vocab)."""
        head: Any = self.embedding if self.untied_head is None else self.untied_head  # a head is never held as codes
        return head.weight


class Block(WithSites):
    """Attention, or a gated delta net, and an MLP or experts, each added to the residual stream. A norm that a family
    lacks is None."""

    attention_norm: Norm | None
    attention: Any
    """`SelfAttention`, or another module with the same call."""
    attention_post_norm: Norm | None
    cross_norm: Norm | None
    cross: Any
    """Cross attention to the states of an encoder; None: none."""
    mlp_norm: Norm | None
    mlp: Any
    """`Mlp`, or `MixtureOfExperts`."""
    mlp_post_norm: Norm | None

    @staticmethod
    def init(init: LayersInit, form: LayerKind) -> "Block":
        """All blocks of one form at once."""
        design = init.design
        norm = functools.partial(init.norm, design.axes.embed)
        before, after = design.placement != "after", design.placement != "before"
        mixer = design.recurrence if form.recurrent and design.recurrence is not None else design.attention
        attention = mixer(init)
        cross = None if design.cross is None else design.cross(init)
        mixture = design.mixture if form.with_experts else None
        return Block(
            attention_norm=norm() if before else None,
            attention=attention,
            attention_post_norm=norm() if after else None,
            cross_norm=None if design.cross is None else norm(),
            cross=cross,
            mlp_norm=norm() if before else None,
            mlp=mlp_of(init, design.axes.mlp) if mixture is None else mixture.init(init),
            mlp_post_norm=norm() if after else None,
        )

    @classmethod
    def stack(
        cls, design: Design, count: int, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray], form: LayerKind | None = None
    ) -> Stack[Any]:
        """Random blocks of one form. Default: that of the first layer."""
        init = LayersInit(design, Axis(LAYERS, count), dtype, keys)
        return Stack(init.layers, cls.init(init, form or design.forms[0]))

    def __call__(
        self,
        x: NamedArray,
        mask: Any,
        rotary: Any,
        memory: Memory | None = None,
        weights: NamedArray | None = None,
        heard: Any = None,
        **of_attention: Any,
    ) -> tuple[NamedArray, Any]:
        """(..., position, embed) to the same axes, and the report of the router if there is one.

        Args:
            x: The residual stream.
            mask: The keys that a query sees.
            rotary: The rotation of queries and keys.
            memory: Keys and values of earlier positions. None: only those of `x`.
            weights: Those of `Inputs`.
            heard: For cross attention, the states of the encoder, or their keys and values.
            of_attention: Further arguments of the attention.
        """
        mixed = self.attention(_normed(self.attention_norm, x), mask, rotary, memory=memory, **of_attention)
        x = x + self.at_site(0, _normed(self.attention_post_norm, mixed))
        if self.cross is not None:
            others = heard if isinstance(heard, tuple) else self.cross.keys_and_values(heard)
            x = x + self.cross(_normed(self.cross_norm, x), None, others=others)
        normed, report = _normed(self.mlp_norm, x), None
        if isinstance(self.mlp, Mlp):
            out = self.mlp(normed)
        else:
            out, report = self.mlp(normed, weights)
        return divided(x + self.at_site(1, _normed(self.mlp_post_norm, out))), report


def _normed(norm: Norm | None, x: NamedArray) -> NamedArray:
    return x if norm is None else norm(x)


class FurtherBlock(Block):
    """Predicts one token more than what is before it (DeepSeek-AI 2024, `arXiv 2412.19437
    <https://arxiv.org/abs/2412.19437>`_, section 2.2): a block over a projection of the features of each position and
    the embedding of the last token that is known there."""

    embedding_norm: RmsNorm
    hidden_norm: RmsNorm
    projection: Linear
    """(pair) to (embed)."""
    norm: RmsNorm
    """Before the output head."""

    @staticmethod
    def init(init: LayersInit, form: LayerKind) -> "FurtherBlock":
        """See `Block.init`."""
        block, embed = Block.init(init, form), init.design.axes.embed
        norm = functools.partial(init.norm, embed)
        projection = init.linear((Axis(PAIR, 2 * embed.size),), (embed,))
        return FurtherBlock(
            **vars(block), embedding_norm=norm(), hidden_norm=norm(), projection=projection, norm=norm()
        )

    def joined(self, x: NamedArray, embedded: NamedArray) -> NamedArray:
        """The input of the block: (..., position, embed).

        Args:
            x: The features that the layer before has.
            embedded: The embeddings of the tokens.
        """
        (pair,) = self.projection.inputs
        halves = (self.embedding_norm(embedded), self.hidden_norm(x.rearrange(embedded.axes)))
        return self.projection(hax.concatenate(pair, [half.rename({EMBED: PAIR}) for half in halves]))


class Further(NamedTuple):
    """What a layer predicts: arrays (..., position)."""

    features: NamedArray
    """The input of the output head: (..., position, embed)."""
    targets: NamedArray
    weights: NamedArray
    """Of the targets; 0 behind the end of a document."""


class Decoder(TokenDecoder):
    """A decoder of a `Design`. Of the stacks it has those that `Design.stacks` names, if layers have their forms; the
    others are None."""

    embedding: Embedding
    positions: Embedding | None
    """Learned positions."""
    encoder: Any
    """Computes the states that cross attention sees."""
    embedding_norm: Norm | None
    dense_blocks: Stack[Block] | None
    """With an MLP, beside `blocks` with experts."""
    blocks: Stack[Block] | None
    """With an MLP, or with experts if some layers have them."""
    linear_blocks: Stack[Block] | None
    """With a gated delta net and an MLP."""
    linear_expert_blocks: Stack[Block] | None
    full_blocks: Stack[Block] | None
    """With attention and an MLP, beside those with a gated delta net."""
    full_expert_blocks: Stack[Block] | None
    norm: Norm
    untied_head: Linear | None
    design: Design = eqx.field(static=True)
    further_blocks: Stack[FurtherBlock] | None = None
    """They predict further tokens."""

    @classmethod
    def of(
        cls, design: Design, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray, **more: Any
    ) -> Self:
        """Random parameters: normal with the design's standard deviation; biases, sinks and corrections 0, factors of
        norms 1. `more` are further fields of the class."""
        embed, forms, stacks = design.axes.embed, design.forms, design.stacks
        tables, *of_stacks = _keys(key, len(stacks))
        embedding = design.embedding(vocab, dtype, tables)
        positions = design.embedding(max_position, dtype, tables) if design.sizes.learned_positions else None
        encoder = None if design.encoder is None else design.encoder(dtype, tables)
        made: dict[str, Any] = dict.fromkeys(STACKS)
        for (form, name), keys in zip(stacks.items(), of_stacks, strict=True):
            if count := forms.count(form):
                made[name] = Block.stack(design, count, dtype, keys, form)
        if (further := design.further) is not None:
            keys = iter(jax.random.split(jax.random.fold_in(key, 1), 17))
            made["further_blocks"] = FurtherBlock.stack(design, further.count, dtype, keys, further.form)
        return cls(
            embedding=embedding,
            positions=positions,
            encoder=encoder,
            embedding_norm=design.norm(embed, dtype) if design.sizes.embedding_norm else None,
            **made,
            norm=design.norm(embed, dtype),
            untied_head=design.untied_head(vocab, dtype, tables),
            vocab=vocab,
            max_position=max_position,
            embed=embed,
            design=design,
            **more,
        )

    @property
    def _stacks(self) -> dict[LayerKind, Stack[Block]]:
        return {form: getattr(self, self.design.stacks[form]) for form in dict.fromkeys(self.design.forms)}

    @property
    def kept(self) -> tuple[PositionState | FixedState, ...]:
        """See `TokenDecoder.kept`."""
        of_form = {form: stack.stacked.attention.kept for form, stack in self._stacks.items()}
        layers = zip(self.design.forms, self.design.kinds, strict=True)
        kept = tuple(
            of_form[form] if form.recurrent else PositionState(of_form[form], kind.window) for form, kind in layers
        )
        stack, further = self.further_blocks, self.design.further
        if stack is None or further is None:
            return kept
        return *kept, *[PositionState(stack.stacked.attention.kept, further.kind.window)] * further.count

    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `KeepsCache.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        x, layers, reports = self._trunk(inputs, cache, compute_dtype)
        if cache is not None and layers is not None:
            return Outputs(x, layers.closed(cache, inputs.tokens))
        if reports is None or self.design.mixture is None:
            return Outputs(x)
        aux, penalty = reported(reports, self.design.mixture.losses)
        return Outputs(x, aux=aux, penalty=penalty)

    def _trunk(self, inputs: Inputs, cache: Cache | None, dtype: DTypeLike) -> tuple[NamedArray, Layers | None, Any]:
        """The features after the last norm, the cache after the last block, and the reports of routers."""
        attended = self._attended(self.design.kinds, inputs)
        shared, of_layers = self._beside(inputs, jnp.dtype(dtype))
        embedded = self.at_site(0, self._placed(inputs, jnp.dtype(dtype)))

        def step(
            layer: tuple[LayerKind, BlockKind], block: Block, carry: tuple[NamedArray, Layers | None], given: Any = None
        ) -> tuple[Any, Any]:
            (form, kind), (x, layers), beside = layer, carry, {**shared, **(given or {})}
            if cache is None or layers is None:
                seen = (inputs.segments, None) if form.recurrent else attended[kind]
                x, report = block(x, *seen, weights=inputs.weights, **beside)
                return (x, None), report
            memory = Memory(cache, layers, kind.window, fixed=form.recurrent)
            x, _ = block(x, *((None, None) if form.recurrent else attended[kind]), memory, **beside)
            return (x, memory.layers), None

        (x, layers), reports = self._scan(step, (embedded, None if cache is None else Layers.of(cache)), of_layers)
        return self.norm(x), layers, reports

    def _beside(self, inputs: Inputs, dtype: jnp.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
        """Further arguments of blocks: those that all of them share, and those of each one, in a dimension without a
        name in front."""
        del inputs, dtype
        return {}, {}

    def _placed(self, inputs: Inputs, dtype: jnp.dtype) -> NamedArray:
        """The embeddings of the tokens, with those of their positions."""
        if self.positions is None:
            return self._embedded(inputs.tokens, dtype)
        learned = self.positions.of_positions(self._position_axis(inputs.tokens), inputs.positions, dtype)
        return divided(add_wide(self._embedded(inputs.tokens, dtype), learned))

    def _embedded(self, tokens: NamedArray, dtype: DTypeLike) -> NamedArray:
        embedded, scale = self.embedding(tokens, jnp.dtype(dtype)), self.design.embedding_scale
        if scale is not None:
            embedded = elementwise(lambda x: x * jnp.asarray(scale, x.dtype), embedded)
        return _normed(self.embedding_norm, embedded)

    def _attended(self, kinds: Sequence[BlockKind], inputs: Inputs) -> dict[BlockKind, tuple[Any, Any]]:
        rotated = self.design.rotated or self.design.axes.head_size
        return masks_and_rotations(kinds, inputs, self._position_axis(inputs.tokens), rotated)

    def further(
        self, x: NamedArray, inputs: Inputs, targets: NamedArray, documents: NamedArray, dtype: DTypeLike
    ) -> tuple[list[Further], NamedArray | None]:
        """What the layers for further tokens predict: the first one the token after the next, each later one the token
        after that.

        Args:
            x: The features of the model: (..., position, embed).
            inputs: Its inputs, with weights.
            targets: (..., position) integers: the next token at each position.
            documents: (..., position) integers: the document of each position.
            dtype: The compute type.

        Returns:
            A prediction of each layer, and the penalty of their routers as in `Outputs`.
        """
        stack, design = self.further_blocks, self.design
        if stack is None or design.further is None or inputs.weights is None:
            return [], None
        mask, rotary = self._attended([design.further.kind], inputs)[design.further.kind]
        goes_on: Any = documents == ahead(documents, -1)

        def step(block: FurtherBlock, carry: Any, given: None) -> tuple[Any, Any]:
            x, tokens, targets, weights = carry
            tokens, targets = ahead(tokens), ahead(targets)
            weights = ahead(weights) * goes_on.astype(weights.dtype)
            x, report = block(block.joined(x, self._embedded(tokens, dtype)), mask, rotary, weights=weights)
            return (x, tokens, targets, weights), (Further(block.norm(x), targets, weights), report)

        carry = (x, inputs.tokens, targets, inputs.weights)
        _, (found, reports) = stack.scan(step, carry)
        predicted = [
            jax.tree.map(lambda x, number=number: with_array(x, x.array[number]), found, is_leaf=is_named)
            for number in range(stack.layers.size)
        ]
        if reports is None or design.mixture is None:
            return predicted, None
        return predicted, reported(reports, design.mixture.losses)[1]

    def propose(
        self, number: int, x: NamedArray, tokens: NamedArray, cache: Cache, dtype: DTypeLike
    ) -> tuple[NamedArray, Outputs]:
        """What a layer for further tokens predicts after the next tokens of each row.

        Args:
            number: The number of the layer, from 0.
            x: The features of the model, or those that the layer before returned: (batch, position, embed).
            tokens: The last token that is known at each position: (batch, position) integers.
            cache: A cache of the model, with the lengths before these positions.
            dtype: The compute type.

        Returns:
            The features for the next layer, and the input of the output head; its cache has the lengths of `cache`.

        Raises:
            ValueError: The model has no such layer.
        """
        stack, further = self.further_blocks, self.design.further
        if stack is None or further is None or number >= further.count:
            raise ValueError(f"the model has no layer {number} that predicts a further token")
        inputs, kind = cache.placed(Inputs(tokens)), further.kind
        block = stack.block(number) if stack.apart else jax.tree.map(lambda x: x[number], stack.blocks[0])
        names = [group_name(state, cache.length) for state in self.kept]
        at = len(names) - further.count + number
        layers = Layers.of(cache)
        layers = Layers(layers.groups, layers.following | {names[at]: jnp.int32(names[:at].count(names[at]))})
        memory = Memory(cache, layers, kind.window)
        mask, rotary = self._attended([kind], inputs)[kind]
        x, _ = block(block.joined(x, self._embedded(tokens, dtype)), mask, rotary, memory)
        return x, Outputs(block.norm(x), dataclasses.replace(cache, groups=memory.layers.groups))

    def without_further(self) -> Self:
        """This model without the layers that predict further tokens."""
        design = dataclasses.replace(self.design, further=None)
        return dataclasses.replace(self, further_blocks=None, design=design)

    def _scan(self, step: Any, carry: Any, of_layers: dict[str, Any]) -> tuple[Any, Any]:
        """``carry, report = step((form, kind), block, carry)`` for each block in order, with its part of `of_layers` if
        there is one stack: the last carry, and the reports of routers."""
        layers = tuple(zip(self.design.forms, self.design.kinds, strict=True))
        if len(self.design.stacks) > 1:
            return scan_stacks(self._stacks, tuple((form, (form, kind)) for form, kind in layers), step, carry)
        (stack,) = self._stacks.values()
        if self.design.by_layer:
            of_layers = {**of_layers, "factor": 1 / (1 + jnp.arange(len(layers), dtype=jnp.float32))}
        return stack.scan_kinds(layers, lambda *given: step(*given)[0], carry, (of_layers,) if of_layers else ()), None

    @property
    def logit_cap(self) -> float | None:
        """See `CausalLM.logit_cap`."""
        return self.design.logit_cap


def _keys(key: PRNGKeyArray, stacks: int) -> tuple[Iterator[PRNGKeyArray], ...]:
    """The keys of the tables, and those of each stack. A single stack and the tables take theirs in turn, the embedding
    the first."""
    if stacks == 1:
        shared = iter(jax.random.split(key, 20))
        return shared, shared
    of_tables, *of_stacks = jax.random.split(key, 1 + stacks)
    return iter(jax.random.split(of_tables, 2)), *(iter(jax.random.split(own, 16)) for own in of_stacks)
