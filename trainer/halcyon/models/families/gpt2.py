"""GPT-2 (Radford et al. 2019): LayerNorm before each part, learned positions, biases everywhere, GELU, tied embeddings.

``scaleAttnByInverseLayerIdx`` is the option of Mistral-GPT2 (Karamcheti et al. 2021): deeper layers have smaller
scores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.cache import Cache, Layers, Memory, PositionState
from halcyon.models.decoder import TokenDecoder
from halcyon.models.dropout import WithSites
from halcyon.models.families.family import Family
from halcyon.models.model import Inputs, Outputs
from halcyon.models.parameters import Role
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import InitLinear, Linear
from halcyon.models.parts.masks import causal
from halcyon.models.parts.mlp import activated
from halcyon.models.parts.norm import LayerNorm
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.parts.weight import add_wide
from halcyon.models.published import ConfigReader, PublishedModel, Tensor, Tensors
from halcyon.models.published.decoder_config import REQUIRED, read_keys, write_keys
from halcyon.models.published.tensors import Join, piece, tensor
from halcyon.models.stack import Stack
from halcyon_api.spec.families.gpt2 import Gpt2Section, Gpt2Spec, LearnedPositionsSection
from halcyon_api.spec.families.section import Activation

InitMixer = Callable[[Axis, Axis, jnp.dtype, InitLinear, InitLinear, Iterator[PRNGKeyArray]], Any]
"""Makes what mixes the positions in all blocks, from the axes of features and layers, the type, and what makes a linear
map, and one into the residual stream."""


def _self_attention(
    spec: Gpt2Section,
    embed: Axis,
    layers: Axis,
    dtype: jnp.dtype,
    linear: InitLinear,
    into_stream: InitLinear,
    keys: Iterator[PRNGKeyArray],
) -> SelfAttention:
    del layers, dtype, keys
    heads, head_size = Axis(axes.HEADS, spec.num_attention_heads), Axis(axes.HEAD_SIZE, spec.head_size)
    scale = None if spec.scale_attn_weights else 1.0
    return SelfAttention.init(embed, (heads,), (), head_size, linear, into_stream, scale=scale)


class Gpt2Block(WithSites):
    """Attention and MLP, each added to the residual stream."""

    attention_norm: LayerNorm
    attention: Any
    """`SelfAttention`, or another module with the same call."""
    mlp_norm: LayerNorm
    mlp_up: Linear
    mlp_down: Linear
    activation: Activation = eqx.field(static=True)

    @staticmethod
    def init(
        spec: LearnedPositionsSection,
        embed: Axis,
        layers: Axis,
        dtype: jnp.dtype,
        *,
        mixer: InitMixer,
        keys: Iterator[PRNGKeyArray],
    ) -> Gpt2Block:
        """All blocks at once: every parameter has the axis ``layers`` in front."""
        mlp = Axis(axes.MLP, spec.mlp_size)
        norm = functools.partial(LayerNorm.init, embed, stacked=(layers,), epsilon=spec.layer_norm_epsilon, dtype=dtype)

        def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], std: float = spec.initializer_range) -> Linear:
            return Linear.init(inputs, outputs, stacked=(layers,), std=std, dtype=dtype, bias=True, key=next(keys))

        # Smaller with more layers: the variance of the residual stream does not grow (section 2.3 of the paper).
        into_stream = functools.partial(linear, std=spec.initializer_range / math.sqrt(2 * spec.num_hidden_layers))
        return Gpt2Block(
            attention_norm=norm(),
            attention=mixer(embed, layers, dtype, linear, into_stream, keys),
            mlp_norm=norm(),
            mlp_up=linear((embed,), (mlp,)),
            mlp_down=into_stream((mlp,), (embed,)),
            activation=spec.hidden_act,
        )

    def __call__(self, x: NamedArray, mask: Any, factor: jax.Array | None, memory: Memory | None = None) -> NamedArray:
        """(..., position, embed) to the same axes. `factor` multiplies the scores."""
        x = x + self.at_site(0, self.attention(self.attention_norm(x), mask, factor=factor, memory=memory))
        return divided(x + self.at_site(1, self.mlp_down(activated(self.activation, self.mlp_up(self.mlp_norm(x))))))


class Gpt2(TokenDecoder):
    """A GPT-2 decoder."""

    embedding: Embedding
    positions: Embedding
    blocks: Stack[Gpt2Block]
    norm: LayerNorm
    untied_head: Linear | None
    by_layer: bool = eqx.field(static=True)
    """Whether the scores of a layer are divided by its number."""

    @classmethod
    def init(
        cls,
        spec: Any,
        vocab: Axis,
        max_position: Axis,
        dtype: jnp.dtype,
        *,
        key: PRNGKeyArray,
        mixer: InitMixer | None = None,
        **further: Any,
    ) -> Self:
        """Random parameters: normal with `initializer_range`, smaller for projections into the residual stream; biases
        0, norms 1.

        Args:
            spec: The section: a `Gpt2Section`, or another one with `mixer`.
            vocab: See `halcyon.models.build_model`.
            max_position: See there.
            dtype: See there.
            key: See there.
            mixer: Makes what mixes the positions. None: self-attention.
            further: Further fields of the class.
        """
        embed, layers, std = (
            Axis(axes.EMBED, spec.hidden_size),
            Axis(axes.LAYERS, spec.num_hidden_layers),
            spec.initializer_range,
        )
        keys, mixer = iter(jax.random.split(key, 9)), mixer or functools.partial(_self_attention, spec)
        return cls(
            embedding=Embedding.init(vocab, embed, std=std, dtype=dtype, key=next(keys)),
            positions=Embedding.init(max_position, embed, std=std, dtype=dtype, key=next(keys)),
            blocks=Stack(layers, Gpt2Block.init(spec, embed, layers, dtype, mixer=mixer, keys=keys)),
            norm=LayerNorm.init(embed, epsilon=spec.layer_norm_epsilon, dtype=dtype),
            untied_head=None
            if getattr(spec, "tie_word_embeddings", True)
            else Linear.init((embed,), (vocab,), std=std, dtype=dtype, role=Role.HEAD, key=next(keys)),
            by_layer=getattr(spec, "scale_attn_by_inverse_layer_idx", False),
            vocab=vocab,
            max_position=max_position,
            embed=embed,
            **further,
        )

    @property
    def kept(self) -> tuple[PositionState, ...]:
        """See `TokenDecoder.kept`."""
        return (PositionState(self.blocks.stacked.attention.kept),) * self.blocks.layers.size

    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `TokenDecoder.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        x, layers = self._trunk(inputs, causal(inputs.segments), cache, jnp.dtype(compute_dtype))
        return Outputs(x, None if cache is None or layers is None else layers.closed(cache, inputs.tokens))

    def _trunk(
        self, inputs: Inputs, mask: Any, cache: Cache | None, dtype: jnp.dtype
    ) -> tuple[NamedArray, Layers | None]:
        """The features after the last norm, and the cache after the last block; `mask` is what mixers take."""
        position = self._position_axis(inputs.tokens)
        learned = self.positions.of_positions(position, inputs.positions, dtype)
        x = divided(self.at_site(0, add_wide(self.embedding(inputs.tokens, dtype), learned)))

        def step(
            block: Gpt2Block, carry: tuple[NamedArray, Layers | None], factor: jax.Array | None
        ) -> tuple[Any, None]:
            x, layers = carry
            memory = None if cache is None or layers is None else Memory(cache, layers)
            return (block(x, mask, factor, memory), None if memory is None else memory.layers), None

        factors = 1 / (1 + jnp.arange(self.blocks.layers.size, dtype=jnp.float32)) if self.by_layer else None
        start = (x, None if cache is None else Layers.of(cache))
        (x, layers), _ = self.blocks.scan(step, start, factors)
        return self.norm(x), layers


def tensors(spec: Gpt2Spec) -> Tensors:
    """The tensors of ``GPT2LMHeadModel``."""
    head = [] if spec.tie_word_embeddings else [tensor("lm_head.weight", "untied_head.weight", axes.VOCAB, axes.EMBED)]
    return Tensors(
        (*trunk_tensors("transformer"), *head),
        ignored=(
            r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
            *((r"lm_head\.weight",) if spec.tie_word_embeddings else ()),
        ),
        other_names=((r"(?=(h|wte|wpe|ln_f)\.)", "transformer."),),  # the published files have no prefix
    )


def trunk_tensors(name: str) -> list[Tensor]:
    """The tensors of a GPT-2 below `name`. Its matrices are [in, out], and queries, keys and values share one
    tensor."""
    layer, block, heads = f"{name}.h.{{layers}}", "blocks.stacked", (axes.HEADS, axes.HEAD_SIZE)
    fused = [f"{block}.attention.{part}" for part in ("query", "key", "value")]
    return [
        tensor(f"{name}.wte.weight", "embedding.weight", axes.VOCAB, axes.EMBED),
        tensor(f"{name}.wpe.weight", "positions.weight", axes.POSITION, axes.EMBED),
        *with_bias(f"{name}.ln_f", "norm", axes.EMBED),
        *with_bias(f"{layer}.ln_1", f"{block}.attention_norm", axes.EMBED),
        Tensor(
            f"{layer}.attn.c_attn.weight",
            tuple(piece(f"{path}.weight", axes.EMBED, heads) for path in fused),
            Join(1),
        ),
        Tensor(f"{layer}.attn.c_attn.bias", tuple(piece(f"{path}.bias", heads) for path in fused), Join(0)),
        *with_bias(f"{layer}.attn.c_proj", f"{block}.attention.output", heads, axes.EMBED),
        *with_bias(f"{layer}.ln_2", f"{block}.mlp_norm", axes.EMBED),
        *with_bias(f"{layer}.mlp.c_fc", f"{block}.mlp_up", axes.EMBED, axes.MLP),
        *with_bias(f"{layer}.mlp.c_proj", f"{block}.mlp_down", axes.MLP, axes.EMBED),
    ]


def with_bias(name: str, path: str, *dimensions: str | tuple[str, ...]) -> list[Tensor]:
    """The weight and the bias of a map or a norm."""
    return [
        tensor(f"{name}.weight", f"{path}.weight", *dimensions),
        tensor(f"{name}.bias", f"{path}.bias", dimensions[-1]),
    ]


DEFAULTS = {
    "n_layer": REQUIRED,
    "n_embd": REQUIRED,
    "n_head": REQUIRED,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
NAMES = {
    "n_layer": "num_hidden_layers",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "activation_function": "hidden_act",
}
CONSTANTS = {"reorder_and_upcast_attn": False, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _read(config: ConfigReader) -> Gpt2Spec:
    config.only("add_cross_attention", False)
    fields = read_keys(config, DEFAULTS, NAMES)
    return Gpt2Spec(**fields, intermediate_size=config.integer("n_inner", 4 * fields["hidden_size"]))


def _write(spec: Gpt2Spec, positions: int) -> dict[str, Any]:
    sizes = {"n_inner": spec.mlp_size, "n_positions": positions, "n_ctx": positions}
    return {**write_keys(spec, DEFAULTS, NAMES), **sizes, **CONSTANTS}


_FORM = PublishedModel("gpt2", ("GPT2LMHeadModel",), tensors, _read, _write, positions="n_positions")
GPT2 = Family(Gpt2Spec, Gpt2.init, (_FORM,))
