"""Whisper (Radford et al. 2022, `arXiv 2212.04356 <https://arxiv.org/abs/2212.04356>`_): an encoder of the features of
a sound, and a decoder whose blocks also attend to what the encoder makes of them.

The encoder has two convolutions over three frames, of which the second halves the frames, and blocks whose attention
sees all positions. A row of tokens is one document with one sound. The positions of the encoder are a table that is not
trained, with the numbers of the file.
"""

from __future__ import annotations

import dataclasses
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
from halcyon.models.decoder import Block, Decoder
from halcyon.models.design import Design, LayersInit, plain_design, self_attention
from halcyon.models.families.family import decoder_family
from halcyon.models.model import Inputs
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import divided
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.mlp import activated
from halcyon.models.parts.norm import LayerNorm
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.parts.weight import add_wide
from halcyon.models.published import ConfigReader, PublishedModel, Tensor, Tensors
from halcyon.models.published.decoder_config import REQUIRED, read_keys, write_keys
from halcyon.models.published.tensors import plain_attention, plain_block, tensor, with_bias
from halcyon.models.stack import Stack
from halcyon_api.spec.families.whisper import TAPS, WhisperSpec

_EPSILON = 1e-5
_LONGEST_WAVE = 10_000

KeysAndValues = tuple[NamedArray, NamedArray]


class Encoder(eqx.Module):
    """From the features of sounds to vectors, one for each two frames."""

    first: Linear
    second: Linear
    blocks: Stack[Block]
    norm: LayerNorm
    positions: NamedArray = parameter(Role.BIAS)

    @staticmethod
    def init(spec: WhisperSpec, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> Encoder:
        """Random parameters, and sinusoids as positions."""
        inner = _design(spec, spec.encoder_layers, spec.encoder_heads, spec.encoder_mlp)
        embed = inner.axes.embed
        source, taps = Axis(axes.SOURCE, spec.max_source_positions), Axis(axes.TAPS, TAPS)

        def convolution(inputs: Axis) -> Linear:
            return Linear.init((taps, inputs), (embed,), std=inner.std, dtype=dtype, bias=True, key=next(keys))

        return Encoder(
            convolution(Axis(axes.MEL, spec.num_mel_bins)),
            convolution(embed.alias(axes.CHANNELS)),
            Block.stack(inner, spec.encoder_layers, dtype, keys),
            inner.norm(embed, dtype),
            hax.named(jnp.asarray(sinusoids(source.size, embed.size), dtype), (source, embed)),
        )

    def __call__(self, sound: NamedArray, dtype: jnp.dtype) -> NamedArray:
        """(..., position, mel) to (..., position, embed), with half of the positions."""
        x = activated("gelu", self.first(_neighbours(sound.astype(dtype), 1)))
        x = activated("gelu", self.second(_neighbours(x.rename({axes.EMBED: axes.CHANNELS}), 2)))
        x = divided(add_wide(x, jax.lax.stop_gradient(self.positions).rename({axes.SOURCE: axes.POSITION})))
        x, _ = self.blocks.scan(lambda block, x, _: (block(x, None, None)[0], None), x)
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


def _attention(init: LayersInit) -> SelfAttention:
    """Attention whose keys have no biases."""
    found = self_attention(init)
    return dataclasses.replace(found, key=dataclasses.replace(found.key, bias=None))


def _design(spec: WhisperSpec, layers: int, heads: int, mlp: int, **other: Any) -> Design:
    sizes = layers, spec.hidden_size, heads, mlp
    return plain_design(*sizes, _EPSILON, spec.initializer_range, spec.hidden_act, attention=_attention, **other)


def design(spec: WhisperSpec) -> Design:
    """What the decoder is made of."""
    sizes = spec.num_hidden_layers, spec.num_attention_heads, spec.mlp_size
    return _design(spec, *sizes, encoder=functools.partial(Encoder.init, spec), cross=_attention)


class Whisper(Decoder):
    """An encoder of sound, and a decoder of tokens."""

    @property
    def sound(self) -> tuple[int, int]:
        """See `CausalLM.sound`."""
        return 2 * self.encoder.positions.axis_size(axes.SOURCE), self.encoder.first.inputs[1].size

    def heard(self, sound: NamedArray, compute_dtype: DTypeLike = jnp.float32) -> KeysAndValues:
        """The keys and values of cross attention in all blocks, for many calls with one sound: a dimension without a
        name, of the blocks, in front of (batch, key_position, heads, head_size).

        Args:
            sound: See `Inputs.sound`.
            compute_dtype: Type of activations and matrix products.
        """
        states = self.encoder(sound, jnp.dtype(compute_dtype))

        def of_block(block: Block, carry: None, _: None) -> tuple[None, Any]:
            return carry, block.cross.keys_and_values(states)

        stack: Any = self.blocks
        return stack.scan(of_block, None)[1]

    def _beside(self, inputs: Inputs, dtype: jnp.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
        """What cross attention sees.

        Raises:
            ValueError: There is no sound.
        """
        sound = inputs.sound
        if sound is None:
            raise ValueError("a model of the family whisper needs a sound with its tokens; give Inputs.sound")
        return ({"heard": self.encoder(sound, dtype)}, {}) if isinstance(sound, NamedArray) else ({}, {"heard": sound})


def tensors(spec: WhisperSpec) -> Tensors:
    """The tensors of ``WhisperForConditionalGeneration``. The head is the token embedding."""

    def layers(name: str, path: str) -> list[Tensor]:
        layer, norms = f"{name}.layers.{{layers}}", ("self_attn_layer_norm", "final_layer_norm")
        return plain_block(layer, f"{path}.blocks.stacked".removeprefix("."), norms, key_bias=False)

    encoder, decoder, cross = "model.encoder", "model.decoder", "model.decoder.layers.{layers}.encoder_attn"
    return Tensors(
        (
            *with_bias(f"{encoder}.conv1", "encoder.first", axes.EMBED, axes.MEL, axes.TAPS),
            *with_bias(f"{encoder}.conv2", "encoder.second", axes.EMBED, axes.CHANNELS, axes.TAPS),
            tensor(f"{encoder}.embed_positions.weight", "encoder.positions", axes.SOURCE, axes.EMBED),
            *layers(encoder, "encoder"),
            *with_bias(f"{encoder}.layer_norm", "encoder.norm", axes.EMBED),
            tensor(f"{decoder}.embed_tokens.weight", "embedding.weight", axes.VOCAB, axes.EMBED),
            tensor(f"{decoder}.embed_positions.weight", "positions.weight", axes.POSITION, axes.EMBED),
            *layers(decoder, ""),
            *plain_attention(cross, "blocks.stacked.cross", key_bias=False),
            *with_bias(f"{cross}_layer_norm", "blocks.stacked.cross_norm", axes.EMBED),
            *with_bias(f"{decoder}.layer_norm", "norm", axes.EMBED),
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
    config.all_only({"scale_embedding": False, "tie_word_embeddings": True})
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
WHISPER = decoder_family(WhisperSpec, design, _FORM, kind=Whisper)
