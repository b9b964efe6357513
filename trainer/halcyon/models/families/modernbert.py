"""ModernBERT (Warner et al. 2024): an encoder whose tokens see both sides, and whose head fills in masked tokens.

Every third layer sees the whole sequence, the others a window around each token. The norm of embeddings takes the place
of the first norm of the first block, which is a stack of its own for that reason. The head is a dense layer with a
norm, then the token embedding with a bias for each token.

The bias is one more feature of the output head, and the features that meet it are 1. So the losses, which know an
output head without biases, compute it too. First weights are normal, and smaller for projections into the residual
stream, as in GPT-2; the published models cut them off at two standard deviations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models import axes
from halcyon.models.decoder import Block
from halcyon.models.design import BlockKind, Design, masks_and_rotations
from halcyon.models.dropout import WithSites
from halcyon.models.families.family import Family
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parameters import Role, parameter
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, Nearby, Segments
from halcyon.models.parts.mlp import activated
from halcyon.models.parts.norm import LayerNorm
from halcyon.models.parts.rotary import Rope
from halcyon.models.published import ConfigReader, Layers, PublishedModel, Tensor, Tensors
from halcyon.models.published.decoder_config import REQUIRED, read_keys, write_keys
from halcyon.models.published.rope import read_rope_by_layer, read_windowed_theta, require_default
from halcyon.models.published.tensors import tensor, with_bias
from halcyon.models.softmax import Softmax
from halcyon.models.stack import Stack
from halcyon_api.spec.families.modernbert import FULL_EVERY, ModernBertSpec

_EPSILON = 1e-5
"""Added to the variance in norms."""
_DENSE = "head_embed"
"""The features of the head."""
_WITH_ONE = "embed_and_one"
"""The same, and a last one that is 1."""


class ModernBert(CausalLM, WithSites):
    """A ModernBERT encoder."""

    bidirectional: ClassVar = True
    embedding: Embedding
    embedding_norm: LayerNorm
    first_block: Stack[Block]
    """Its attention has no norm before it."""
    later_blocks: Stack[Block] | None
    norm: LayerNorm
    head_dense: Linear
    head_norm: LayerNorm
    untied_head: Linear | None
    """None: the head is the token embedding."""
    kinds: tuple[BlockKind, ...] = eqx.field(static=True)
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)
    head_bias: NamedArray | None = parameter(Role.BIAS)
    """(vocab). None: the model has labels."""

    @staticmethod
    def init(spec: ModernBertSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: jax.Array) -> ModernBert:
        """Random parameters: norms 1, biases 0."""
        design, keys, others = _design(spec), iter(jax.random.split(key, 17)), spec.num_hidden_layers - 1
        embed, dense = design.axes.embed, Axis(_DENSE, spec.hidden_size)

        embedding, first = design.embedding(vocab, dtype, keys), Block.stack(design, 1, dtype, keys)
        return ModernBert(
            embedding=embedding,
            embedding_norm=design.norm(embed, dtype),
            first_block=dataclasses.replace(first, stacked=dataclasses.replace(first.stacked, attention_norm=None)),
            later_blocks=Block.stack(design, others, dtype, keys) if others else None,
            norm=design.norm(embed, dtype),
            head_dense=Linear.init((embed,), (dense,), std=_into_stream(spec), dtype=dtype, key=next(keys)),
            head_norm=design.norm(embed, dtype),
            untied_head=design.untied_head(vocab, dtype, keys),
            head_bias=hax.zeros(vocab, dtype=dtype) if spec.labels is None else None,
            kinds=design.kinds,
            vocab=vocab,
            max_position=max_position,
            embed=embed,
        )

    def __call__(self, inputs: Inputs, *, compute_dtype: Any = jnp.float32) -> Outputs:
        """See `CausalLM.__call__`."""
        x = self._dense(self.states(inputs, compute_dtype=compute_dtype).features)
        return Outputs(_joined(x, hax.ones(inputs.tokens.resolve_axis(axes.POSITION), dtype=x.dtype)))

    def _dense(self, x: NamedArray) -> NamedArray:
        return self.head_norm(activated("gelu", self.head_dense(x)).rename({_DENSE: axes.EMBED}))

    def scores(self, pooled: NamedArray) -> NamedArray:
        """See `CausalLM.scores`."""
        return super().scores(self._dense(pooled))

    def states(self, inputs: Inputs, *, compute_dtype: Any = jnp.float32) -> Outputs:
        """See `CausalLM.states`."""
        position, head_size = self._position_axis(inputs.tokens), self.first_block.stacked.attention.head_size
        everything = None if inputs.segments is None else Segments(inputs.segments)
        rotations = masks_and_rotations(self.kinds, inputs, position, head_size)
        attended = {kind: (_mask(everything, kind.window), table) for kind, (_, table) in rotations.items()}

        def step(kind: BlockKind, block: Block, x: NamedArray) -> NamedArray:
            return block(x, *attended[kind])[0]

        embedded = self.embedding_norm(self.embedding(inputs.tokens, jnp.dtype(compute_dtype)))
        x = self.first_block.scan_kinds(self.kinds[:1], step, self.at_site(0, embedded))
        if self.later_blocks is not None:
            x = self.later_blocks.scan_kinds(self.kinds[1:], step, x)
        return Outputs(self.norm(x))

    @property
    def head(self) -> NamedArray:
        """(vocab, the features and one)."""
        head: Any = self.embedding if self.untied_head is None else self.untied_head
        return head.weight if self.head_bias is None else _joined(head.weight, self.head_bias)

    @property
    def softmax(self) -> Softmax:
        """See `CausalLM.softmax`."""
        if self.head_bias is None:
            return super().softmax
        return super().softmax._replace(embed=Axis(_WITH_ONE, self.embed.size + 1))


def _joined(x: NamedArray, last: NamedArray) -> NamedArray:
    """(..., embed) and a last feature with the other axes, or some of them, as (..., the features and one)."""
    outer = tuple(axis for axis in x.axes if axis.name != axes.EMBED)
    feature: Any = last.broadcast_to(outer).rearrange(outer)
    parts = (x.rearrange((*outer, x.resolve_axis(axes.EMBED))).array, feature.array[..., None].astype(x.dtype))
    joined = jnp.concatenate(parts, -1)
    return hax.named(joined, (*outer, Axis(_WITH_ONE, joined.shape[-1])))


def _mask(everything: Mask | None, window: int | None) -> Mask | None:
    if window is None:
        return everything
    near = Nearby(window // 2)
    return near if everything is None else everything & near


def _into_stream(spec: ModernBertSpec) -> float:
    """Standard deviation of projections into the residual stream."""
    return spec.initializer_range * (2 * spec.num_hidden_layers) ** -0.5


def _design(spec: ModernBertSpec) -> Design:
    """What the blocks are made of."""
    kinds = {
        "full_attention": BlockKind(Rope(spec.rope_theta)),
        "sliding_attention": BlockKind(Rope(spec.rope_local_base_freq), spec.sizes().window),
    }
    return Design(
        sizes=spec.sizes(),
        kinds=tuple(kinds[kind] for kind in spec.layers_by_type),
        epsilon=_EPSILON,
        std=spec.initializer_range,
        std_into_stream=_into_stream(spec),
        activation="gelu",
        layer_norms=True,
        grouped=False,
    )


def tensors(spec: ModernBertSpec) -> Tensors:
    """The tensors of ``ModernBertForMaskedLM``. Queries, keys and values share one, and so do the MLP's first maps."""
    tied = spec.sizes().tied
    first, later = Layers("first_block.stacked", (0,)), range(1, spec.num_hidden_layers)
    return Tensors(
        (
            tensor("model.embeddings.tok_embeddings.weight", "embedding.weight", axes.VOCAB, axes.EMBED),
            tensor("model.embeddings.norm.weight", "embedding_norm.weight", axes.EMBED),
            tensor("model.final_norm.weight", "norm.weight", axes.EMBED),
            tensor("head.dense.weight", "head_dense.weight", _DENSE, axes.EMBED),
            tensor("head.norm.weight", "head_norm.weight", axes.EMBED),
            *(() if spec.labels is not None else (tensor("decoder.bias", "head_bias", axes.VOCAB),)),
            *(() if tied else (tensor("decoder.weight", "untied_head.weight", axes.VOCAB, axes.EMBED),)),
            *(with_bias("classifier", "score", axes.LABELS, axes.EMBED) if spec.labels else ()),
            *_layer(first, first=True),
            *(_layer(Layers("later_blocks.stacked", later), first=False) if later else ()),
        ),
        ignored=() if not tied else (r"decoder\.weight",) if spec.labels is None else (r"decoder\.(weight|bias)",),
    )


def _layer(layers: Layers, first: bool) -> Iterator[Tensor]:
    heads = (axes.HEADS, axes.HEAD_SIZE)
    yield from layers.norms(
        {"mlp_norm": "mlp_norm"} if first else {"attn_norm": "attention_norm", "mlp_norm": "mlp_norm"}
    )
    for name, maps, outputs in (
        ("attn.Wqkv", ("attention.query", "attention.key", "attention.value"), heads),
        ("mlp.Wi", ("mlp.gate", "mlp.up"), axes.MLP),
    ):
        yield layers.fused(
            f"{name}.weight", 0, 0, *(layers.piece(f"{one}.weight", outputs, axes.EMBED) for one in maps)
        )
    yield layers.tensor("attn.Wo.weight", "attention.output.weight", axes.EMBED, heads)
    yield layers.tensor("mlp.Wo.weight", "mlp.down.weight", axes.EMBED, axes.MLP)


_DEFAULTS = {
    "num_hidden_layers": REQUIRED,
    "hidden_size": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_attention_heads": REQUIRED,
    "local_attention": 128,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
_ONLY = {
    **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), False),
    **dict.fromkeys(("hidden_activation", "classifier_activation"), "gelu"),
    "decoder_bias": True,
    "norm_eps": _EPSILON,
    "global_attn_every_n_layers": FULL_EVERY,
}
"""The values of the published models, which alone are computed."""
_CONSTANTS = {
    **_ONLY,
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"), 0.0),
    **dict.fromkeys(("deterministic_flash_attn", "sparse_prediction"), False),
    "initializer_cutoff_factor": 2.0,
    "sparse_pred_ignore_index": -100,
}
_GLOBAL, _LOCAL = "global_rope_theta", "local_rope_theta"
"""Keys of version 4 of transformers: the bases of both kinds of layers."""


def _read(config: ConfigReader) -> ModernBertSpec:
    config.all_only(_ONLY)
    fields = read_keys(config, _DEFAULTS, {})
    ropes = {name: config.document[name] for name in ("rope_parameters", "rope_scaling") if config.has(name)}
    own = {"rope_theta": config.number(_GLOBAL)} if config.has(_GLOBAL) else {}
    full = require_default(config, read_rope_by_layer(ConfigReader({**ropes, **own}, config.where), 160_000.0))
    windowed = read_windowed_theta(config, _LOCAL, 10_000.0)
    pooling: Any = config.text("classifier_pooling", "cls")
    spec = ModernBertSpec(**fields, rope_theta=full.theta, rope_local_base_freq=windowed, classifier_pooling=pooling)
    config.only("layer_types", list(spec.layers_by_type))
    return spec


def _write(spec: ModernBertSpec, positions: int) -> dict[str, Any]:
    full, windowed = spec.rope_theta, spec.rope_local_base_freq
    return {
        **write_keys(spec, _DEFAULTS, {}),
        "layer_types": list(spec.layers_by_type),
        "classifier_pooling": spec.classifier_pooling,
        "max_position_embeddings": positions,
        _GLOBAL: full,
        _LOCAL: windowed,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": full},
            "sliding_attention": {"rope_type": "default", "rope_theta": windowed},
        },
        **_CONSTANTS,
    }


MODERNBERT = Family(
    ModernBertSpec,
    ModernBert.init,
    (PublishedModel("modernbert", ("ModernBertForMaskedLM",), tensors, _read, _write),),
)
