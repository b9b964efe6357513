"""What the families share whose decoders and config.json are like those of Llama: tensors, and the common keys of config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast, get_args

from pydantic import ValidationError

from halcyon.errors import BadConfiguration
from halcyon.models.axes import EMBED, MLP
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.layers import Layers, tables, unused
from halcyon.models.weights.rope import FOR_ALL_TYPES, Rope, computed_entries, read_rope, read_rope_by_layer, write_rope
from halcyon.models.weights.tensors import Tensor, Tensors
from halcyon_api.sentences import first_fault
from halcyon_api.spec.families.decoder import DecoderSection, LayerType
from halcyon_api.spec.families.rope import RopeScaling, RopeType
from halcyon_api.spec.families.section import Activation
from halcyon_api.spec.families.sizes import DecoderSizes

BEFORE = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
AFTER = {"post_attention_layernorm": "attention_post_norm", "post_feedforward_layernorm": "mlp_post_norm"}
AROUND = {"input_layernorm": "attention_norm", "pre_feedforward_layernorm": "mlp_norm", **AFTER}
"""The norms of a block in the file, with their names in `halcyon.models.decoder.DecoderBlock`."""

_ACTIVATIONS = {"swish": "silu"}
"""Other names of activation functions in config.json."""
_ABSENT_IF_ZERO = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""Entries whose zero transformers takes for an absent entry, as the first code of DeepSeek did."""
_REQUIRED: Mapping[str, Mapping[str, float]] = {"llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0}}
"""Entries of rotary positions that transformers requires, with our defaults."""


def decoder_tensors(
    sizes: DecoderSizes,
    norms: Mapping[str, str],
    *,
    further: tuple[Tensor, ...] = (),
    ignored: tuple[str, ...] = (),
    other_names: tuple[tuple[str, str], ...] = (),
) -> Tensors:
    """The tensors of a decoder.

    Args:
        sizes: Its sizes, biases and norms.
        norms: One of `BEFORE`, `AFTER` and `AROUND`, or others.
        further: Tensors that only this family has.
        ignored: See `Tensors`.
        other_names: See `Tensors`.
    """
    layers = Layers("blocks.stacked", range(sizes.layers))
    return Tensors(
        (
            *tables(tied=sizes.tied),
            *(layers.tensor(f"{name}.weight", f"{ours}.weight", EMBED) for name, ours in norms.items()),
            *layers.self_attention(sizes),
            *(layers.linear("mlp.gate_proj", "mlp.gate", MLP, EMBED, sizes.mlp_bias) if sizes.gated else ()),
            *layers.linear("mlp.up_proj", "mlp.up", MLP, EMBED, sizes.mlp_bias),
            *layers.linear("mlp.down_proj", "mlp.down", EMBED, MLP, sizes.mlp_bias),
            *further,
        ),
        ignored=(*unused(tied=sizes.tied), *ignored),
        other_names=other_names,
    )


def read_decoder(
    config: ConfigReader,
    *,
    theta: float = 10_000.0,
    epsilon: float = 1e-6,
    tied: bool = False,
    key_value_heads: int | None = None,
    partial: bool = False,
    by_layer: bool = False,
    also: Collection[str] = (),
) -> dict[str, Any]:
    """The common fields of a section.

    Args:
        config: The config.json.
        theta: Base of the rotary frequencies if no key has it: the default of the class in transformers.
        epsilon: Such a default of ``rms_norm_eps``.
        tied: Such a default of ``tie_word_embeddings``.
        key_value_heads: Such a default of ``num_key_value_heads``. None, and null in the file: the number of query heads.
        partial: Whether the family rotates a part of each head, which it reads itself.
        by_layer: Whether the class in transformers has an object of rotary positions for each kind of layers.
        also: See `read_rope`.

    Raises:
        BadConfiguration: A key is missing or wrong.
    """
    heads = config.integer("num_attention_heads")
    rope = read_rope_by_layer(config, theta) if by_layer else read_rope(config, theta, partial=partial, also=also)
    default_heads = heads if key_value_heads is None or "num_key_value_heads" in config.document else key_value_heads
    return {
        "num_hidden_layers": config.integer("num_hidden_layers"),
        "hidden_size": config.integer("hidden_size"),
        "intermediate_size": config.integer("intermediate_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("num_key_value_heads", default_heads),
        "head_dim": config.integer("head_dim") if config.has("head_dim") else None,
        "rope_theta": rope.theta,
        "rope_scaling": read_scaling(config, rope, by_layer=by_layer),
        "rms_norm_eps": config.number("rms_norm_eps", epsilon),
        "tie_word_embeddings": config.flag("tie_word_embeddings", tied),
        "initializer_range": config.number("initializer_range", 0.02),
    }


def write_decoder(
    spec: DecoderSection, positions: int, *, windowed: Rope | None = None, always_scaling: bool = False, also: Collection[str] = ()
) -> dict[str, Any]:
    """The entries of config.json for the common fields.

    Args:
        spec: The section.
        positions: The longest sequence in tokens.
        windowed: The rotary positions of layers that see only a window, if config.json has an object for each kind of layers.
        always_scaling: See `halcyon.models.weights.rope.write_rope`.
        also: See `read_rope`.
    """
    rope = written_rope(spec.rope_theta, spec.rope_scaling, also)
    entries = write_rope(rope, always=always_scaling)
    if windowed is not None:
        full = rope.entries
        beside = {name: full.pop(name) for name in FOR_ALL_TYPES if name in full}
        entries["rope_parameters"] = {"full_attention": full, "sliding_attention": windowed.entries, **beside}
    return {
        "num_hidden_layers": spec.num_hidden_layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.key_value_heads,
        "head_dim": spec.head_size,
        "max_position_embeddings": positions,
        "rms_norm_eps": spec.rms_norm_eps,
        "initializer_range": spec.initializer_range,
        "attention_dropout": 0.0,
        "tie_word_embeddings": spec.tie_word_embeddings,
        **entries,
    }


def read_scaling(config: ConfigReader, rope: Rope, *, by_layer: bool = False) -> RopeScaling | None:
    """The change of the rotary frequencies; None for the kind ``default``.

    Args:
        config: The config.json.
        rope: Its rotary positions.
        by_layer: See `read_decoder`.

    Raises:
        BadConfiguration: A value is wrong.
    """
    if rope.kind == "default":
        return None
    settings = {name: value for name, value in rope.settings.items() if value is not None and not (name in _ABSENT_IF_ZERO and value == 0)}
    if rope.kind in ("llama3", "yarn"):
        longest = config.integer("max_position_embeddings")
        settings.setdefault("original_max_position_embeddings", longest)
        if config.has("original_max_position_embeddings") and not by_layer:  # transformers takes this key first
            settings["original_max_position_embeddings"] = config.integer("original_max_position_embeddings")
        original = settings["original_max_position_embeddings"]
        settings.setdefault("factor", longest / original)
    if "truncate" in rope.settings:
        settings["truncate"] = bool(rope.settings["truncate"])  # null is false
    try:
        return RopeScaling(rope_type=cast("RopeType", rope.kind), **settings)
    except ValidationError as error:
        raise BadConfiguration(f"{config.where}: {first_fault(error, 'rope_scaling')}") from None


def written_rope(theta: float, scaling: RopeScaling | None, also: Collection[str] = ()) -> Rope:
    """The rotary positions for config.json: the entries that their kind computes."""
    if scaling is None or scaling.rope_type == "default":
        return Rope(theta)
    computed = computed_entries(scaling.rope_type, also)
    settings = scaling.model_dump(include=set(computed), exclude_none=True)
    return Rope(theta, scaling.rope_type, {**_REQUIRED.get(scaling.rope_type, {}), **settings})


def read_activation(config: ConfigReader, name: str, default: Activation) -> Activation:
    """An activation function.

    Raises:
        BadConfiguration: It is not one that Halcyon computes.
    """
    found = config.text(name, default)
    found = _ACTIVATIONS.get(found, found)
    if found not in get_args(Activation):
        config.only(name, *get_args(Activation))
    return cast("Activation", found)


def read_layer_types(config: ConfigReader) -> list[LayerType] | None:
    """``layer_types``; None if it is absent.

    Raises:
        BadConfiguration: It is not a list of kinds of layers that the family has.
    """
    found = config.document.get("layer_types")
    if found is None:
        return None
    if not isinstance(found, list) or not set(cast("list[Any]", found)) <= set(get_args(LayerType)):
        raise BadConfiguration(f"{config.where}: layer_types must be a list of {' and '.join(get_args(LayerType))}")
    return cast("list[LayerType]", found)


def read_window(config: ConfigReader, default: int | None = None) -> int | None:
    """``sliding_window``; None if it is null. `default` is its value if the key is absent."""
    if "sliding_window" not in config.document:
        return default
    return config.integer("sliding_window") if config.has("sliding_window") else None
