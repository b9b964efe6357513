"""The declaration of how parameters lie in the tensors of a file.

A family lists its tensors. Each has a name with the numbers of stacked axes in braces, and one piece or more: the
parameters that it holds. A piece says, for each dimension of the tensor, which axes of the parameter are merged into
it, the outermost first. This covers transposed matrices, heads that are merged or split, stacked layers and experts,
fused and interleaved tensors:

    tensor("model.norm.weight", "norm.weight", EMBED)
    tensor("model.layers.{layers}.self_attn.q_proj.weight", "blocks.stacked.attention.query.weight", (KV_HEADS, Q_HEADS,
    HEAD_SIZE), EMBED) Tensor("h.{layers}.attn.c_attn.weight", (piece(query, EMBED, (HEADS, HEAD_SIZE)), piece(key, …),
    piece(value, …)), Join(1))

A parameter has the bits of its tensor: no value is computed, so import and export are inverse to each other. A norm
that multiplies by ``1 + weight`` keeps ``weight`` as the file has it.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from halcyon.models.axes import (
    EMBED,
    EXPERTS,
    HEAD_SIZE,
    HEADS,
    KV_HEADS,
    LABELS,
    MLP,
    PAIR,
    Q_HEADS_PER_GROUP,
    ROUTES,
    VOCAB,
)
from halcyon.models.layer_kinds import LayerKind, layer_kinds, stack_names
from halcyon_api.spec.families.decoder import MOST_FURTHER, DecoderSection
from halcyon_api.spec.families.section import DecoderSizes

Order = Callable[[int], np.ndarray]
"""For an axis of a given size: the index in the file of each of our indices."""


@dataclass(frozen=True)
class Piece:
    """A parameter in a tensor.

    Attributes:
        path: Path of the parameter in the model, such as ``blocks.stacked.attention.query.weight``.
        dimensions: For each dimension of the tensor, the names of the parameter's axes that are merged into it, the
            outermost first. An empty tuple is a dimension of size 1. Stacked axes that are in the name of the tensor
            are left out.
        orders: The order of an axis in the file, by name, where it differs from the parameter's. It must be the only
            axis, or the last one, of its dimension.
    """

    path: str
    dimensions: tuple[tuple[str, ...], ...]
    orders: Mapping[str, Order] = field(default_factory=dict)


@dataclass(frozen=True)
class Join:
    """How the pieces of a fused tensor are joined.

    Attributes:
        dimension: The dimension along which the pieces are concatenated.
        within: The number of axes of that dimension that all pieces share, the outermost first; the pieces are
            concatenated within each of their indices. 0: one piece after the other. All axes: the pieces alternate
            (interleaved).
    """

    dimension: int = 0
    within: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file, or one for each index of the stacked axes that its name has in braces.

    Attributes:
        name: Name in the file; ``{layers}`` stands for a number of the axis ``layers``.
        pieces: The parameters that it holds; with more than one, in the order of `join`.
        join: How several pieces are joined.
        numbers: The numbers in the name for each index of a stacked axis, where they are not 0, 1, 2, …: in a pattern
            of six kinds of blocks, kind 1 has ``{"layers": range(1, layers, 6)}``.
    """

    name: str
    pieces: tuple[Piece, ...]
    join: Join = Join()
    numbers: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Constant:
    """A tensor of the file that holds one number and no parameter, or one such tensor for each layer.

    An export writes it, because a reader may have no value of its own. A file may lack it.

    Attributes:
        name: Name in the file; ``{layers}`` stands for the number of a layer.
        value: The number. The model is computed with it, so a file with another one is rejected.
        layers: The numbers of the layers.
    """

    name: str
    value: float
    layers: Sequence[int]


@dataclass(frozen=True)
class Tensors:
    """All tensors of a model.

    Attributes:
        tensors: Every parameter of the model is a piece of exactly one of them.
        constants: The tensors that hold no parameter.
        ignored: Regular expressions of whole names that a file may have and that hold no learned number of their own:
            buffers that every reader computes, and a head that is the embedding.
        further: Regular expressions of the beginnings of names, each with an end: learned tensors of layers that
            predict further tokens. Files have such layers only if they also have the tensor with this beginning and
            end; an empty end: always.
        images: Regular expressions of the beginnings of names: learned tensors of the parts for images.
        other_names: Regular expressions and replacements that turn a name of a file into a name of `tensors`, for files
            that spell it in another way. The first that matches the beginning of the name is applied.
    """

    tensors: tuple[Tensor, ...]
    constants: tuple[Constant, ...] = ()
    ignored: tuple[str, ...] = ()
    further: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()
    other_names: tuple[tuple[str, str], ...] = ()

    def part(self, name: str, names: Container[str]) -> str | None:
        """The part that Halcyon does not train and that has a tensor of the files, such as ``mtp``; None: none has it.

        Args:
            name: The tensor's name in the files.
            names: The names of all tensors of the files.
        """
        for beginning, end in (*self.further, *((image, "") for image in self.images)):
            found = re.match(beginning, name)
            if found is not None and (not end or found[0] + end in names):
                return found[0].rstrip(".")
        return None


def piece(path: str, *dimensions: str | tuple[str, ...], orders: Mapping[str, Order] | None = None) -> Piece:
    """A piece; a dimension of one axis may be given by its name."""
    return Piece(path, tuple((one,) if isinstance(one, str) else one for one in dimensions), orders or {})


def tensor(
    name: str, path: str, *dimensions: str | tuple[str, ...], numbers: Mapping[str, Sequence[int]] | None = None
) -> Tensor:
    """A tensor that holds one parameter."""
    return Tensor(name, (piece(path, *dimensions),), numbers=numbers or {})


def with_bias(name: str, path: str, *dimensions: str | tuple[str, ...], outputs: int = 0) -> list[Tensor]:
    """The weight and the bias of a map or a norm; `outputs` is the dimension of the weight that the bias has."""
    weight = tensor(f"{name}.weight", f"{path}.weight", *dimensions)
    return [weight, tensor(f"{name}.bias", f"{path}.bias", dimensions[outputs])]


def plain_attention(name: str, path: str, *, key_bias: bool = True) -> list[Tensor]:
    """The tensors of attention with biases, all of whose heads have keys of their own."""
    heads = (HEADS, HEAD_SIZE)
    key = with_bias(f"{name}.k_proj", f"{path}.key", heads, EMBED)
    return [
        *with_bias(f"{name}.q_proj", f"{path}.query", heads, EMBED),
        *(key if key_bias else key[:1]),
        *with_bias(f"{name}.v_proj", f"{path}.value", heads, EMBED),
        *with_bias(f"{name}.out_proj", f"{path}.output", EMBED, heads),
    ]


def plain_block(name: str, path: str, norms: tuple[str, str], mlp: str = "", *, key_bias: bool = True) -> list[Tensor]:
    """The tensors of the blocks of a `halcyon.models.design.plain_design`; `mlp` is before the names of the maps."""
    return [
        *plain_attention(f"{name}.self_attn", f"{path}.attention", key_bias=key_bias),
        *with_bias(f"{name}.{norms[0]}", f"{path}.attention_norm", EMBED),
        *with_bias(f"{name}.{mlp}fc1", f"{path}.mlp.up", MLP, EMBED),
        *with_bias(f"{name}.{mlp}fc2", f"{path}.mlp.down", EMBED, MLP),
        *with_bias(f"{name}.{norms[1]}", f"{path}.mlp_norm", EMBED),
    ]


BESIDE_IMAGES = (
    (r"(model\.language_model|language_model\.model)\.", "model."),
    (r"language_model\.lm_head\.", "lm_head."),
)
"""The names of a text model in the files of a model with images; for `Tensors.other_names`."""


QUERIES = (KV_HEADS, Q_HEADS_PER_GROUP, HEAD_SIZE)
KEYS = (KV_HEADS, HEAD_SIZE)

BEFORE = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
AFTER = {"post_attention_layernorm": "attention_post_norm", "post_feedforward_layernorm": "mlp_post_norm"}
AROUND = {"input_layernorm": "attention_norm", "pre_feedforward_layernorm": "mlp_norm", **AFTER}
"""The norms of a block in the file, with their names in `halcyon.models.decoder.Block`."""

SEPARATE = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
"""Names of the maps of an expert in most families."""

_MAPS = {"gate": (MLP, EMBED), "up": (MLP, EMBED), "down": (EMBED, MLP)}
"""The maps of an MLP: their outputs and inputs."""
_LAYER = "model.layers.{layers}"
_PROJECTION = "eh_proj"
"""Only layers that predict further tokens have it. Without it, config.json has fewer layers than the files."""


class Layers:
    """The layers of one form: their place in the model, and their numbers in the names of the file.

    Args:
        block: Path of their blocks in the model.
        numbers: The number of each layer.
        name: The beginning of their names in the file.
    """

    def __init__(self, block: str, numbers: Sequence[int], name: str = _LAYER) -> None:
        self.block, self.numbers, self.name = block, {"layers": tuple(numbers)}, name

    def piece(self, path: str, *dimensions: str | tuple[str, ...], **options: Any) -> Piece:
        """A piece of a fused tensor, by its path below the block."""
        return piece(f"{self.block}.{path}", *dimensions, **options)

    def fused(self, name: str, dimension: int, within: int, *pieces: Piece) -> Tensor:
        """A tensor of each layer that holds several parameters; see `Join`."""
        return Tensor(f"{self.name}.{name}", pieces, Join(dimension, within), self.numbers)

    def tensor(self, name: str, path: str, *dimensions: str | tuple[str, ...]) -> Tensor:
        """A tensor of each layer; both names are below the layer."""
        return tensor(f"{self.name}.{name}", f"{self.block}.{path}", *dimensions, numbers=self.numbers)

    def linear(
        self, name: str, path: str, outputs: str | tuple[str, ...], inputs: str | tuple[str, ...], bias: bool = False
    ) -> list[Tensor]:
        """The tensors of a linear map."""
        weight = self.tensor(f"{name}.weight", f"{path}.weight", outputs, inputs)
        return [weight, self.tensor(f"{name}.bias", f"{path}.bias", outputs)] if bias else [weight]

    def norms(self, names: Mapping[str, str]) -> list[Tensor]:
        """The norms of a block, by their names in the file and in the block."""
        return [self.tensor(f"{name}.weight", f"{ours}.weight", EMBED) for name, ours in names.items()]

    def mlp(self, name: str, path: str, *, gated: bool = True, bias: bool = False) -> list[Tensor]:
        """The tensors of an MLP."""
        return [
            tensor
            for part, axes in _MAPS.items()
            if gated or part != "gate"
            for tensor in self.linear(f"{name}.{part}_proj", f"{path}.{part}", *axes, bias=bias)
        ]

    def experts(self, name: str = "mlp", maps: Mapping[str, str] = SEPARATE) -> list[Tensor]:
        """The tensors of a router and of experts with a tensor each.

        Args:
            name: The name of both together.
            maps: The names of ``gate``, ``up`` and ``down`` in an expert.
        """
        of_experts = [
            self.tensor(f"{name}.experts.{{experts}}.{maps[part]}.weight", f"mlp.experts.{part}", *axes)
            for part, axes in _MAPS.items()
        ]
        return [self.tensor(f"{name}.gate.weight", "mlp.router.weight", ROUTES, EMBED), *of_experts]

    def fused_experts(self) -> list[Tensor]:
        """The tensors of a router and of experts with one tensor for all gates and ups, and one for all downs."""
        pieces = (self.piece(f"mlp.experts.{part}", EXPERTS, MLP, EMBED) for part in ("gate", "up"))
        return [
            self.tensor("mlp.gate.weight", "mlp.router.weight", ROUTES, EMBED),
            self.fused("mlp.experts.gate_up_proj", 1, 0, *pieces),
            self.tensor("mlp.experts.down_proj", "mlp.experts.down", EXPERTS, EMBED, MLP),
        ]

    def self_attention(self, sizes: DecoderSizes) -> list[Tensor]:
        """The tensors of the self-attention that these sizes describe."""
        found = [
            *self.linear("self_attn.q_proj", "attention.query", QUERIES, EMBED, sizes.query_bias),
            *self.linear("self_attn.k_proj", "attention.key", KEYS, EMBED, sizes.query_bias),
            *self.linear("self_attn.v_proj", "attention.value", KEYS, EMBED, sizes.query_bias),
            *self.linear("self_attn.o_proj", "attention.output", EMBED, QUERIES, sizes.output_bias),
        ]
        if sizes.query_norm is not None:
            for name, path, axes in (("q_norm", "query_norm", QUERIES), ("k_norm", "key_norm", KEYS)):
                features = axes if sizes.query_norm == "projection" else HEAD_SIZE
                found.append(self.tensor(f"self_attn.{name}.weight", f"attention.{path}.weight", features))
        if sizes.sinks:
            found.append(self.tensor("self_attn.sinks", "attention.sinks", QUERIES[:-1]))
        return found


def _beside(layers: Layers) -> list[Tensor]:
    """What layers that predict further tokens have beside those of a block, by the names of DeepSeek V3."""
    norms = {"enorm": "embedding_norm", "hnorm": "hidden_norm", "shared_head.norm": "norm"}
    return [*layers.norms(norms), *layers.linear(_PROJECTION, "projection", EMBED, PAIR)]


@dataclass(frozen=True)
class FurtherNames:
    """The names of layers that predict further tokens: those of DeepSeek V3 are numbered after the last layer.

    Attributes:
        layer: The beginning of the names of their blocks.
        beside: Their other tensors.
        kept: See `Tensors.further`, for a model without these layers. None: that of DeepSeek V3.
    """

    layer: str = _LAYER
    beside: Callable[[Layers], list[Tensor]] = _beside
    kept: tuple[tuple[str, str], ...] | None = None

    def layers(self, spec: DecoderSection) -> Layers | None:
        """These layers of a model; None: it has none."""
        first = spec.num_hidden_layers if self.layer == _LAYER else 0
        count = spec.num_nextn_predict_layers
        return Layers("further_blocks.stacked", range(first, first + count), self.layer) if count else None

    def not_trained(self, spec: DecoderSection) -> tuple[tuple[str, str], ...]:
        """`Tensors.further`."""
        count = spec.num_nextn_predict_layers or 0
        if self.kept is not None:
            return () if count else self.kept
        numbers = "|".join(str(spec.num_hidden_layers + extra) for extra in range(count, MOST_FURTHER))
        return ((rf"model\.layers\.({numbers})\.", f"{_PROJECTION}.weight"),) if numbers else ()


def decoder_tensors(
    spec: DecoderSection,
    norms: Mapping[str, str] = BEFORE,
    beside: Callable[[Layers], Sequence[Tensor]] = lambda _: (),
    *,
    mixture: Callable[[Layers], Sequence[Tensor]] | None = None,
    attention: Callable[[Layers], Sequence[Tensor]] | None = None,
    recurrence: Callable[[Layers], Sequence[Tensor]] | None = None,
    recurrent: Sequence[bool] = (),
    names: FurtherNames = FurtherNames(),
    **others: Any,
) -> Tensors:
    """The tensors of a `halcyon.models.decoder.Decoder`: the embedding, the last norm, the head if it is not the
    embedding, those of its layers, and those of layers that predict further tokens.

    Files may also have the frequencies of rotary positions, the head if it is the embedding, and copies of both tables
    in layers that predict further tokens.

    Args:
        spec: Its section.
        norms: One of `BEFORE`, `AFTER` and `AROUND`, or others.
        beside: Further tensors of layers.
        mixture: The tensors of the router, the experts and the shared MLP. None: no layer has experts.
        attention: The tensors of attention. None: those of its sizes.
        recurrence: The tensors of the gated delta net that a layer has in its place. None: no layer has one.
        recurrent: For each layer, whether it has one.
        names: The names of layers that predict further tokens.
        others: Other fields of `Tensors`.
    """
    sizes = spec.sizes()

    def with_experts(spec: Any) -> Sequence[bool]:
        return () if mixture is None else spec.experts().with_experts

    def of(layers: Layers, form: LayerKind) -> list[Tensor]:
        mixer = recurrence if form.recurrent and recurrence is not None else attention
        mixed = layers.self_attention(sizes) if mixer is None else mixer(layers)
        if form.with_experts and mixture is not None:
            fed = mixture(layers)
        else:
            fed = layers.mlp("mlp", "mlp", gated=sizes.gated, bias=sizes.mlp_bias)
        return [*layers.norms(norms), *mixed, *fed, *beside(layers)]

    numbers: dict[LayerKind, list[int]] = {}
    for number, form in enumerate(layer_kinds(spec.num_hidden_layers, recurrent, with_experts(spec))):
        numbers.setdefault(form, []).append(number)
    stacks = stack_names(recurrent=recurrence is not None, with_experts=mixture is not None)
    layers = [one for form, own in numbers.items() for one in of(Layers(f"{stacks[form]}.stacked", own), form)]
    tied, further = spec.tied, names.layers(spec)
    unused = (r".*\.rotary_emb\.inv_freq", *((r"lm_head\.weight",) if tied else ()))
    if further is not None:
        last = LayerKind(False, any(with_experts(spec.longer)[-1:]))
        layers += [*of(further, last), *names.beside(further)]
        unused = (*unused, r"model\.layers\.\d+\.(embed_tokens|shared_head\.head)\.weight")
    head = () if tied else (tensor("lm_head.weight", "untied_head.weight", VOCAB, EMBED),)
    tables = (
        tensor("model.embed_tokens.weight", "embedding.weight", VOCAB, EMBED),
        tensor("model.norm.weight", "norm.weight", EMBED),
    )
    if spec.labels:
        head = (tensor("score.weight", "score.weight", LABELS, EMBED),)
    return Tensors((*tables, *head, *layers), ignored=unused, further=names.not_trained(spec), **others)
