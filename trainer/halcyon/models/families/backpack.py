"""Backpack (Hewitt et al. 2023), as Levanter defines it: the features of a position are a weighted mean of the sense
vectors of the tokens up to it.

Each token has several sense vectors, which an MLP makes of its embedding alone. The weights come from a GPT-2: from its
features, each sense computes the weights of an attention, whose values are the sense vectors themselves. There is no
map after them, so the logits are linear in the sense vectors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import EMBED, HEAD_SIZE, HEADS, KEY_POSITION, MLP, POSITION, SENSE_MLP
from halcyon.models.cache import Cache, Memory, PositionState
from halcyon.models.dropout import WithSites
from halcyon.models.families.family import Family
from halcyon.models.families.gpt2 import CONSTANTS, DEFAULTS, NAMES, Gpt2, trunk_tensors, with_bias
from halcyon.models.model import Inputs, Outputs
from halcyon.models.partition import divided
from halcyon.models.parts.attention import attention
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, causal
from halcyon.models.parts.mlp import activated
from halcyon.models.parts.norm import LayerNorm
from halcyon.models.published import ConfigReader, PublishedModel, Tensor, Tensors
from halcyon.models.published.decoder_config import read_keys, write_keys
from halcyon.models.published.tensors import Join, piece
from halcyon_api.spec.families.backpack import BackpackSpec
from halcyon_api.spec.families.section import Activation

_PART = " of senses"


class SenseWeights(WithSites):
    """The weights of the sense vectors: attention, with heads of senses, without projections of values and outputs."""

    query: Linear
    key: Linear
    head_size: Axis = eqx.field(static=True)

    def __call__(self, x: NamedArray, senses: NamedArray, mask: Mask, memory: Memory | None) -> NamedArray:
        """The weighted sum of each sense: (..., position, heads, embed).

        Args:
            x: The features of the GPT-2: (..., position, embed).
            senses: (..., position, heads, embed).
            mask: The tokens that a position sees.
            memory: Keys and sense vectors of earlier positions. None: only those of `x`.
        """
        position = x.resolve_axis(POSITION)
        key_position = position.alias(KEY_POSITION)
        query, key = self.query(x), self.key(x)
        if memory is None:
            key, senses = key.rename({position: key_position}), senses.rename({position: key_position})
        else:
            (key, senses), mask = memory.extended(key, senses)
            key_position = key.resolve_axis(KEY_POSITION)
        return attention(
            query,
            key,
            senses,
            mask,
            position=position,
            key_position=key_position,
            head_size=self.head_size,
            value_size=senses.resolve_axis(EMBED),
            dropout=self.sites[0] if self.sites else None,
        )


class Senses(WithSites):
    """The sense vectors of tokens, and their weights.

    Attributes:
        norm: Of the embedding.
        mlp_norm: Of the sum of the embedding and its norm.
        mlp_up: To an MLP that is added to that sum.
        mlp_down: From it.
        output_norm: Of the result.
        sense_up: To the MLP that makes the sense vectors.
        sense_down: To the sense vectors.
        attention: The weights.
        activation: Of both MLPs.
    """

    norm: LayerNorm
    mlp_norm: LayerNorm
    mlp_up: Linear
    mlp_down: Linear
    output_norm: LayerNorm
    sense_up: Linear
    sense_down: Linear
    attention: SenseWeights
    activation: Activation = eqx.field(static=True)

    @staticmethod
    def init(spec: BackpackSpec, embed: Axis, dtype: jnp.dtype, *, keys: Iterator[PRNGKeyArray]) -> Senses:
        """Random parameters: weights normal with `initializer_range`, biases 0, norms 1."""
        senses, head_size = Axis(HEADS, spec.num_senses), Axis(HEAD_SIZE, spec.hidden_size // spec.num_senses)
        mlp, sense_mlp = Axis(MLP, spec.mlp_size), Axis(SENSE_MLP, spec.sense_mlp_size)
        norm = functools.partial(LayerNorm.init, embed, epsilon=spec.layer_norm_epsilon, dtype=dtype)

        def linear(inputs: Axis, *outputs: Axis) -> Linear:
            std = spec.initializer_range
            return Linear.init((inputs,), outputs, std=std, dtype=dtype, bias=True, key=next(keys))

        return Senses(
            norm=norm(),
            mlp_norm=norm(),
            mlp_up=linear(embed, mlp),
            mlp_down=linear(mlp, embed),
            output_norm=norm(),
            sense_up=linear(embed, sense_mlp),
            sense_down=linear(sense_mlp, senses, embed),
            attention=SenseWeights(linear(embed, senses, head_size), linear(embed, senses, head_size), head_size),
            activation=spec.hidden_act,
        )

    def __call__(self, embedded: NamedArray, x: NamedArray, mask: Mask, memory: Memory | None = None) -> NamedArray:
        """The features of each position: (..., position, embed).

        Args:
            embedded: The token embeddings, without positions.
            x: The features of the GPT-2, with the axes of `embedded`.
            mask: The tokens that a position sees.
            memory: Keys and sense vectors of earlier positions. None: only those of `x`.
        """
        residual = self.at_site(0, self.norm(embedded)) + embedded
        residual = residual + self.at_site(1, self._mlp(self.mlp_up, self.mlp_down, self.mlp_norm(residual)))
        senses = self._mlp(self.sense_up, self.sense_down, self.output_norm(residual))
        weighed = self.attention(x, senses, mask, memory).rearrange((..., HEADS, EMBED))
        mean = jnp.mean(weighed.array.astype(jnp.float32), -2).astype(x.dtype)
        return divided(hax.named(mean, tuple(axis for axis in weighed.axes if axis.name != HEADS)))

    def _mlp(self, up: Linear, down: Linear, x: NamedArray) -> NamedArray:
        return down(activated(self.activation, up(x)))

    @property
    def kept(self) -> tuple[tuple[Axis, ...], ...]:
        """What a cache keeps of a position: the keys and the sense vectors."""
        return tuple(map(_outputs, (self.attention.key, self.sense_down)))


def _outputs(linear: Linear) -> tuple[Axis, ...]:
    return tuple(axis for axis in linear.weight.axes if axis not in linear.inputs)


class Backpack(Gpt2):
    """A Backpack. Its last norm is that of the GPT-2; the output head is the token embedding."""

    senses: Senses

    @staticmethod
    def of(spec: BackpackSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Backpack:
        """Random parameters; see `Gpt2.init` and `Senses.init`."""
        of_trunk, of_senses = jax.random.split(key)
        senses = Senses.init(spec, Axis(EMBED, spec.hidden_size), dtype, keys=iter(jax.random.split(of_senses, 6)))
        return Backpack.init(spec, vocab, max_position, dtype, key=of_trunk, senses=senses)

    @property
    def kept(self) -> tuple[PositionState, ...]:
        """See `TokenDecoder.kept`."""
        return (*super().kept, PositionState(self.senses.kept, part=_PART))

    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `TokenDecoder.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        mask, dtype = causal(inputs.segments), jnp.dtype(compute_dtype)
        x, layers = self._trunk(inputs, mask, cache, dtype)
        embedded = divided(self.embedding(inputs.tokens, dtype))
        if cache is None or layers is None:
            return Outputs(self.senses(embedded, x, mask))
        memory = Memory(cache, layers, part=_PART)
        features = self.senses(embedded, x, mask, memory)
        return Outputs(features, memory.layers.closed(cache, inputs.tokens))


def tensors(spec: BackpackSpec) -> Tensors:
    """The tensors of Levanter's export. It has the embedding and the positions under a second name too."""
    del spec
    network, weights, heads = "backpack.sense_network", "backpack.sense_weight_net.c_attn", (HEADS, HEAD_SIZE)
    parts = [f"senses.attention.{name}" for name in ("query", "key")]
    return Tensors(
        (
            *trunk_tensors("backpack.gpt2_model"),
            *with_bias(f"{network}.ln", "senses.norm", EMBED),
            *with_bias(f"{network}.block.ln_1", "senses.mlp_norm", EMBED),
            *with_bias(f"{network}.block.mlp.c_fc", "senses.mlp_up", EMBED, MLP),
            *with_bias(f"{network}.block.mlp.c_proj", "senses.mlp_down", MLP, EMBED),
            *with_bias(f"{network}.block.ln_2", "senses.output_norm", EMBED),
            *with_bias(f"{network}.final_mlp.c_fc", "senses.sense_up", EMBED, SENSE_MLP),
            *with_bias(f"{network}.final_mlp.c_proj", "senses.sense_down", SENSE_MLP, (HEADS, EMBED)),
            Tensor(f"{weights}.weight", tuple(piece(f"{path}.weight", heads, EMBED) for path in parts), Join(0)),
            Tensor(f"{weights}.bias", tuple(piece(f"{path}.bias", heads) for path in parts), Join(0)),
        ),
        ignored=(
            r"backpack\.gpt2_model\.h\.\d+\.attn\.(bias|masked_bias)",
            r"backpack\.(word|position)_embeddings\.weight",
            r"lm_head\.weight",
        ),
    )


_DEFAULTS = {name: value for name, value in DEFAULTS.items() if name != "tie_word_embeddings"} | {
    "num_senses": 16,
    "sense_intermediate_scale": 4,
}


def _read(config: ConfigReader) -> BackpackSpec:
    fields = read_keys(config, _DEFAULTS, NAMES)
    return BackpackSpec(**fields, intermediate_size=config.integer("n_inner", 4 * fields["hidden_size"]))


def _write(spec: BackpackSpec, positions: int) -> dict[str, Any]:
    sizes = {"n_inner": spec.mlp_size, "n_positions": positions, "n_ctx": positions}
    return {**write_keys(spec, _DEFAULTS, NAMES), **sizes, "tie_word_embeddings": True, **CONSTANTS}


_FORM = PublishedModel("backpack-gpt2", ("BackpackGPT2LMHeadModel",), tensors, _read, _write, positions="n_positions")
BACKPACK = Family(BackpackSpec, Backpack.of, (_FORM,))
