"""Whisper (Radford et al. 2022, `arXiv 2212.04356 <https://arxiv.org/abs/2212.04356>`_): an encoder of the features of
a sound, and a decoder whose blocks also attend to what the encoder makes of them.

The encoder has two convolutions over three frames, of which the second halves the frames, and blocks whose attention
sees all positions. A row of tokens is one document with one sound. The positions of the encoder are a table that is not
trained, with the numbers of the file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.cache import Cache, Layers, Memory, PositionState
from halcyon.models.decoder import TokenDecoder
from halcyon.models.dropout import WithSites
from halcyon.models.families.family import Family
from halcyon.models.model import Inputs, Outputs
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, causal
from halcyon.models.parts.mlp import activated
from halcyon.models.parts.norm import LayerNorm
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.parts.weight import add_wide
from halcyon.models.published import ConfigReader, PublishedModel, Tensor, Tensors
from halcyon.models.published.decoder_config import REQUIRED, read_keys, write_keys
from halcyon.models.published.tensors import tensor
from halcyon.models.stack import Stack
from halcyon_api.spec.families.whisper import TAPS, WhisperSpec

_EPSILON = 1e-5
_LONGEST_WAVE = 10_000

KeysAndValues = tuple[NamedArray, NamedArray]


class WhisperBlock(WithSites):
    """Attention, in the decoder cross attention, and an MLP, each added to the residual stream."""

    attention_norm: LayerNorm
    attention: SelfAttention
    cross_norm: LayerNorm | None
    cross: SelfAttention | None
    mlp_norm: LayerNorm
    mlp_up: Linear
    mlp_down: Linear
    activation: Any = eqx.field(static=True)

    @staticmethod
    def init(
        spec: WhisperSpec,
        heads: int,
        mlp: int,
        layers: Axis,
        dtype: jnp.dtype,
        keys: Iterator[PRNGKeyArray],
        *,
        cross: bool,
    ) -> WhisperBlock:
        """All blocks at once: every parameter has the axis ``layers`` in front."""
        embed, inner = Axis(axes.EMBED, spec.hidden_size), Axis(axes.MLP, mlp)
        of_head = (Axis(axes.HEADS, heads), Axis(axes.HEAD_SIZE, spec.hidden_size // heads))
        norm = functools.partial(LayerNorm.init, embed, stacked=(layers,), epsilon=_EPSILON, dtype=dtype)

        def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], bias: bool = True) -> Linear:
            std = spec.initializer_range
            return Linear.init(inputs, outputs, stacked=(layers,), std=std, dtype=dtype, bias=bias, key=next(keys))

        def attention() -> SelfAttention:
            query, key, value = (linear((embed,), of_head, bias) for bias in (True, False, True))
            return SelfAttention(query, key, value, linear(of_head, (embed,)), of_head[1])

        return WhisperBlock(
            attention_norm=norm(),
            attention=attention(),
            cross_norm=norm() if cross else None,
            cross=attention() if cross else None,
            mlp_norm=norm(),
            mlp_up=linear((embed,), (inner,)),
            mlp_down=linear((inner,), (embed,)),
            activation=spec.hidden_act,
        )

    def __call__(
        self,
        x: NamedArray,
        mask: Mask | None,
        heard: NamedArray | KeysAndValues | None = None,
        memory: Memory | None = None,
    ) -> NamedArray:
        """(..., position, embed) to the same axes. `heard` is the output of the encoder, or its keys and values."""
        x = x + self.at_site(0, self.attention(self.attention_norm(x), mask, memory=memory))
        if self.cross is not None and self.cross_norm is not None and heard is not None:
            others = heard if isinstance(heard, tuple) else self.cross.keys_and_values(heard)
            x = x + self.cross(self.cross_norm(x), None, others=others)
        return divided(x + self.at_site(1, self.mlp_down(activated(self.activation, self.mlp_up(self.mlp_norm(x))))))


class Encoder(eqx.Module):
    """From the features of sounds to vectors, one for each two frames."""

    first: Linear
    second: Linear
    blocks: Stack[WhisperBlock]
    norm: LayerNorm
    positions: NamedArray = parameter(Role.BIAS)

    def __call__(self, sound: NamedArray, dtype: jnp.dtype) -> NamedArray:
        """(..., position, mel) to (..., position, embed), with half of the positions."""
        x = activated("gelu", self.first(_neighbours(sound.astype(dtype), 1)))
        x = activated("gelu", self.second(_neighbours(x.rename({axes.EMBED: axes.CHANNELS}), 2)))
        x = divided(add_wide(x, jax.lax.stop_gradient(self.positions).rename({axes.SOURCE: axes.POSITION})))
        x, _ = self.blocks.scan(lambda block, x, _: (block(x, None), None), x)
        return self.norm(x)


def _neighbours(x: NamedArray, stride: int) -> NamedArray:
    """The frames around each one, or around each second one; frames past the ends are 0: (..., position, taps, ...)."""
    at = x.axis_names.index(axes.POSITION)
    padded = jnp.pad(x.array, [(1, 1) if axis == at else (0, 0) for axis in range(x.ndim)])
    last = (x.array.shape[at] - 1) // stride * stride
    parts = [jax.lax.slice_in_dim(padded, tap, tap + last + 1, stride, at) for tap in range(TAPS)]
    return NamedArray(jnp.stack(parts, at + 1), (*x.axis_names[: at + 1], axes.TAPS, *x.axis_names[at + 1 :]))


def sinusoids(positions: int, width: int) -> np.ndarray:
    """The first positions of the encoder: sines, then cosines, of waves from 1 to 10,000 positions: float32 [positions,
    width]."""
    step = np.log(_LONGEST_WAVE) / (width // 2 - 1)
    turns = np.arange(positions)[:, None] * np.exp(-step * np.arange(width // 2))
    return np.concatenate((np.sin(turns), np.cos(turns)), 1).astype(np.float32)


class Whisper(TokenDecoder):
    """An encoder of sound, and a decoder of tokens."""

    embedding: Embedding
    positions: Embedding
    encoder: Encoder
    blocks: Stack[WhisperBlock]
    norm: LayerNorm
    untied_head: Linear | None

    @staticmethod
    def init(spec: WhisperSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Whisper:
        """Random parameters: normal with `initializer_range`; biases 0, norms 1, positions of the encoder sinusoids."""
        embed, std, keys = Axis(axes.EMBED, spec.hidden_size), spec.initializer_range, iter(jax.random.split(key, 20))
        table = functools.partial(Embedding.init, std=std, dtype=dtype)
        norm = functools.partial(LayerNorm.init, embed, epsilon=_EPSILON, dtype=dtype)
        source, taps = Axis(axes.SOURCE, spec.max_source_positions), Axis(axes.TAPS, TAPS)

        def convolution(inputs: Axis) -> Linear:
            return Linear.init((taps, inputs), (embed,), std=std, dtype=dtype, bias=True, key=next(keys))

        def blocks(count: int, heads: int, mlp: int, cross: bool) -> Stack[WhisperBlock]:
            layers = Axis(axes.LAYERS, count)
            return Stack(layers, WhisperBlock.init(spec, heads, mlp, layers, dtype, keys, cross=cross))

        waves = jnp.asarray(sinusoids(source.size, embed.size), dtype)
        return Whisper(
            embedding=table(vocab, embed, key=next(keys)),
            positions=table(max_position, embed, key=next(keys)),
            encoder=Encoder(
                convolution(Axis(axes.MEL, spec.num_mel_bins)),
                convolution(embed.alias(axes.CHANNELS)),
                blocks(spec.encoder_layers, spec.encoder_heads, spec.encoder_mlp, False),
                norm(),
                hax.named(waves, (source, embed)),
            ),
            blocks=blocks(spec.num_hidden_layers, spec.num_attention_heads, spec.mlp_size, True),
            norm=norm(),
            untied_head=None,
            vocab=vocab,
            max_position=max_position,
            embed=embed,
        )

    @property
    def sound(self) -> tuple[int, int]:
        """See `CausalLM.sound`."""
        return 2 * self.encoder.positions.axis_size(axes.SOURCE), self.encoder.first.inputs[1].size

    @property
    def kept(self) -> tuple[PositionState, ...]:
        """See `TokenDecoder.kept`."""
        return (PositionState(self.blocks.stacked.attention.kept),) * self.blocks.layers.size

    def heard(self, sound: NamedArray, compute_dtype: DTypeLike = jnp.float32) -> KeysAndValues:
        """The keys and values of cross attention in all blocks, for many calls with one sound: a dimension without a
        name, of the blocks, in front of (batch, key_position, heads, head_size).

        Args:
            sound: See `Inputs.sound`.
            compute_dtype: Type of activations and matrix products.
        """
        states = self.encoder(sound, jnp.dtype(compute_dtype))

        def of_block(block: WhisperBlock, carry: None, _: None) -> tuple[None, Any]:
            return carry, None if block.cross is None else block.cross.keys_and_values(states)

        return self.blocks.scan(of_block, None)[1]

    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `TokenDecoder.__call__`.

        Raises:
            ValueError: There is no sound.
        """
        sound, dtype = inputs.sound, jnp.dtype(compute_dtype)
        if sound is None:
            raise ValueError("a model of the family whisper needs a sound with its tokens; give Inputs.sound")
        states = self.encoder(sound, dtype) if isinstance(sound, NamedArray) else None
        inputs = inputs if cache is None else cache.placed(inputs)
        mask, position = causal(inputs.segments), self._position_axis(inputs.tokens)
        learned = self.positions.of_positions(position, inputs.positions, dtype)
        x = divided(self.at_site(0, add_wide(self.embedding(inputs.tokens, dtype), learned)))

        def step(block: WhisperBlock, carry: tuple[NamedArray, Layers | None], kept: Any) -> tuple[Any, None]:
            x, layers = carry
            memory = None if cache is None or layers is None else Memory(cache, layers)
            x = block(x, mask, kept if states is None else states, memory)
            return (x, None if memory is None else memory.layers), None

        start = (x, None if cache is None else Layers.of(cache))
        (x, layers), _ = self.blocks.scan(step, start, sound if states is None else None)
        return Outputs(self.norm(x), None if cache is None else layers.closed(cache, inputs.tokens))


def tensors(spec: WhisperSpec) -> Tensors:
    """The tensors of ``WhisperForConditionalGeneration``. The head is the token embedding."""

    def both(name: str, path: str, outputs: str | tuple[str, ...], *inputs: str | tuple[str, ...]) -> list[Tensor]:
        """The weight and the bias of a map or a norm."""
        weight = tensor(f"{name}.weight", f"{path}.weight", outputs, *inputs)
        return [weight, tensor(f"{name}.bias", f"{path}.bias", outputs)]

    def attention(name: str, path: str) -> list[Tensor]:
        heads = (axes.HEADS, axes.HEAD_SIZE)
        return [
            *both(f"{name}.q_proj", f"{path}.query", heads, axes.EMBED),
            tensor(f"{name}.k_proj.weight", f"{path}.key.weight", heads, axes.EMBED),
            *both(f"{name}.v_proj", f"{path}.value", heads, axes.EMBED),
            *both(f"{name}.out_proj", f"{path}.output", axes.EMBED, heads),
        ]

    def layers(name: str, path: str) -> list[Tensor]:
        layer = f"{name}.layers.{{layers}}"
        return [
            *attention(f"{layer}.self_attn", f"{path}.attention"),
            *both(f"{layer}.self_attn_layer_norm", f"{path}.attention_norm", axes.EMBED),
            *both(f"{layer}.fc1", f"{path}.mlp_up", axes.MLP, axes.EMBED),
            *both(f"{layer}.fc2", f"{path}.mlp_down", axes.EMBED, axes.MLP),
            *both(f"{layer}.final_layer_norm", f"{path}.mlp_norm", axes.EMBED),
        ]

    encoder, decoder, cross = "model.encoder", "model.decoder", "model.decoder.layers.{layers}.encoder_attn"
    return Tensors(
        (
            *both(f"{encoder}.conv1", "encoder.first", axes.EMBED, axes.MEL, axes.TAPS),
            *both(f"{encoder}.conv2", "encoder.second", axes.EMBED, axes.CHANNELS, axes.TAPS),
            tensor(f"{encoder}.embed_positions.weight", "encoder.positions", axes.SOURCE, axes.EMBED),
            *layers(encoder, "encoder.blocks.stacked"),
            *both(f"{encoder}.layer_norm", "encoder.norm", axes.EMBED),
            tensor(f"{decoder}.embed_tokens.weight", "embedding.weight", axes.VOCAB, axes.EMBED),
            tensor(f"{decoder}.embed_positions.weight", "positions.weight", axes.POSITION, axes.EMBED),
            *layers(decoder, "blocks.stacked"),
            *attention(cross, "blocks.stacked.cross"),
            *both(f"{cross}_layer_norm", "blocks.stacked.cross_norm", axes.EMBED),
            *both(f"{decoder}.layer_norm", "norm", axes.EMBED),
        ),
        ignored=(r"proj_out\.weight",),
    )


_DEFAULTS = {
    "d_model": REQUIRED,
    "encoder_layers": REQUIRED,
    "decoder_layers": REQUIRED,
    "encoder_attention_heads": REQUIRED,
    "decoder_attention_heads": REQUIRED,
    "encoder_ffn_dim": REQUIRED,
    "decoder_ffn_dim": REQUIRED,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "activation_function": "gelu",
    "init_std": 0.02,
}
_NAMES = {
    "d_model": "hidden_size",
    "decoder_layers": "num_hidden_layers",
    "decoder_attention_heads": "num_attention_heads",
    "decoder_ffn_dim": "intermediate_size",
    "activation_function": "hidden_act",
    "init_std": "initializer_range",
}


def _read(config: ConfigReader) -> WhisperSpec:
    config.only("scale_embedding", False)
    config.only("tie_word_embeddings", True)
    return WhisperSpec(**read_keys(config, _DEFAULTS, _NAMES))


def _write(spec: WhisperSpec, positions: int) -> dict[str, Any]:
    sizes = {
        "decoder_ffn_dim": spec.mlp_size,
        "encoder_ffn_dim": spec.encoder_mlp,
        "encoder_attention_heads": spec.encoder_heads,
        "max_target_positions": positions,
    }
    return {**write_keys(spec, _DEFAULTS, _NAMES), **sizes, **_CONSTANTS}


_CONSTANTS = {
    "is_encoder_decoder": True,
    "scale_embedding": False,
    "tie_word_embeddings": True,
    **dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"), 0.0
    ),
}
_FORM = PublishedModel(
    "whisper",
    ("WhisperForConditionalGeneration",),
    tensors,
    _read,
    _write,
    positions="max_target_positions",
    encodes=True,
)
WHISPER = Family(WhisperSpec, Whisper.init, (_FORM,))
