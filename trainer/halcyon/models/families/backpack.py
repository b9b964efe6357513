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

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import EMBED, HEAD_SIZE, HEADS, KEY_POSITION, MLP, POSITION, SENSE_MLP
from halcyon.models.cache import Cache, FixedState, Memory, PositionState
from halcyon.models.decoder import Decoder
from halcyon.models.dropout import WithSites
from halcyon.models.families.family import Family
from halcyon.models.families.gpt2 import DEFAULTS, design, inputs_first, read_fields, trunk_tensors, write
from halcyon.models.model import Inputs, Outputs
from halcyon.models.partition import divided
from halcyon.models.parts.attention import attention
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, causal
from halcyon.models.parts.mlp import Mlp
from halcyon.models.parts.norm import LayerNorm
from halcyon.models.published import ConfigReader, PublishedModel, Tensor, Tensors
from halcyon.models.published.tensors import Join, piece
from halcyon_api.spec.families.backpack import BackpackSpec

_PART = " of senses"


class SenseWeights(WithSites):
    """The weights of the sense vectors: attention, with heads of senses, without projections of values and outputs."""

    query: Linear
    key: Linear

    def __call__(self, x: NamedArray, senses: NamedArray, mask: Mask, memory: Memory | None) -> NamedArray:
        """The weighted sum of each sense: (..., position, heads, embed).

        Args:
            x: The features of the GPT-2: (..., position, embed).
            senses: (..., position, heads, embed).
            mask: The tokens that a position sees.
            memory: Keys and sense vectors of earlier positions. None: only those of `x`.
        """
        query, key = self.query(x), self.key(x)
        if memory is None:
            key, senses = key.rename({POSITION: KEY_POSITION}), senses.rename({POSITION: KEY_POSITION})
        else:
            (key, senses), mask = memory.extended(key, senses)
        return attention(
            query,
            key,
            senses,
            mask,
            value_size=senses.resolve_axis(EMBED),
            dropout=self.sites[0] if self.sites else None,
        )


class Senses(WithSites):
    """The sense vectors of tokens, and their weights.

    Attributes:
        norm: Of the embedding.
        mlp_norm: Of the sum of the embedding and its norm.
        mlp: Added to that sum.
        output_norm: Of the result.
        sense_mlp: Makes the sense vectors.
        attention: The weights.
    """

    norm: LayerNorm
    mlp_norm: LayerNorm
    mlp: Mlp
    output_norm: LayerNorm
    sense_mlp: Mlp
    attention: SenseWeights

    @staticmethod
    def init(spec: BackpackSpec, embed: Axis, dtype: jnp.dtype, *, keys: Iterator[PRNGKeyArray]) -> Senses:
        """Random parameters: weights normal with `initializer_range`, biases 0, norms 1."""
        senses, head_size = Axis(HEADS, spec.num_senses), Axis(HEAD_SIZE, spec.hidden_size // spec.num_senses)
        norm = functools.partial(LayerNorm.init, embed, epsilon=spec.layer_norm_epsilon, dtype=dtype)

        def linear(inputs: Axis, *outputs: Axis) -> Linear:
            std = spec.initializer_range
            return Linear.init((inputs,), outputs, std=std, dtype=dtype, bias=True, key=next(keys))

        def mlp(inner: Axis, *outputs: Axis) -> Mlp:
            return Mlp(None, linear(embed, inner), linear(inner, *outputs), None, spec.hidden_act)

        return Senses(
            norm=norm(),
            mlp_norm=norm(),
            mlp=mlp(Axis(MLP, spec.mlp_size), embed),
            output_norm=norm(),
            sense_mlp=mlp(Axis(SENSE_MLP, spec.sense_mlp_size), senses, embed),
            attention=SenseWeights(linear(embed, senses, head_size), linear(embed, senses, head_size)),
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
        residual = residual + self.at_site(1, self.mlp(self.mlp_norm(residual)))
        senses = self.sense_mlp(self.output_norm(residual))
        weighed = self.attention(x, senses, mask, memory).rearrange((..., HEADS, EMBED))
        mean = jnp.mean(weighed.array.astype(jnp.float32), -2).astype(x.dtype)
        return divided(hax.named(mean, tuple(axis for axis in weighed.axes if axis.name != HEADS)))

    @property
    def kept(self) -> tuple[tuple[Axis, ...], ...]:
        """What a cache keeps of a position: the keys and the sense vectors."""
        return tuple(map(_outputs, (self.attention.key, self.sense_mlp.down)))


def _outputs(linear: Linear) -> tuple[Axis, ...]:
    return tuple(axis for axis in linear.weight.axes if axis not in linear.inputs)


class Backpack(Decoder):
    """A Backpack. Its last norm is that of the GPT-2; the output head is the token embedding."""

    senses: Any = None
    """`Senses`."""

    @staticmethod
    def init(spec: BackpackSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Backpack:
        """Random parameters; see `Decoder.of` and `Senses.init`."""
        of_trunk, of_senses = jax.random.split(key)
        senses = Senses.init(spec, Axis(EMBED, spec.hidden_size), dtype, keys=iter(jax.random.split(of_senses, 6)))
        return Backpack.of(design(spec), vocab, max_position, dtype, key=of_trunk, senses=senses)

    @property
    def kept(self) -> tuple[PositionState | FixedState, ...]:
        """See `TokenDecoder.kept`."""
        return (*super().kept, PositionState(self.senses.kept, part=_PART))

    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `KeepsCache.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        mask, dtype = causal(inputs.segments), jnp.dtype(compute_dtype)
        x, layers, _ = self._trunk(inputs, cache, dtype)
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
            *inputs_first(f"{network}.ln", "senses.norm", EMBED),
            *inputs_first(f"{network}.block.ln_1", "senses.mlp_norm", EMBED),
            *inputs_first(f"{network}.block.mlp.c_fc", "senses.mlp.up", EMBED, MLP),
            *inputs_first(f"{network}.block.mlp.c_proj", "senses.mlp.down", MLP, EMBED),
            *inputs_first(f"{network}.block.ln_2", "senses.output_norm", EMBED),
            *inputs_first(f"{network}.final_mlp.c_fc", "senses.sense_mlp.up", EMBED, SENSE_MLP),
            *inputs_first(f"{network}.final_mlp.c_proj", "senses.sense_mlp.down", SENSE_MLP, (HEADS, EMBED)),
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
    return BackpackSpec(**read_fields(config, _DEFAULTS))


def _write(spec: BackpackSpec, positions: int) -> dict[str, Any]:
    return {**write(spec, positions, _DEFAULTS), "tie_word_embeddings": True}


_FORM = PublishedModel("backpack-gpt2", ("BackpackGPT2LMHeadModel",), tensors, _read, _write, positions="n_positions")
BACKPACK = Family(BackpackSpec, Backpack.init, (_FORM,))
