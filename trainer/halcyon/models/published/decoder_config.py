"""The config.json of decoders, read and written from one list of keys.

A family lists the keys of its config.json that are fields of its section, each with the default of the class in
transformers. Most keys have the names of the fields. What a family computes otherwise, it changes around
`DecoderConfig.fields` and `DecoderConfig.write`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from pydantic import ValidationError

from halcyon.host.errors import BadConfiguration
from halcyon.models.published.config import ConfigReader
from halcyon.models.published.rope import (
    FOR_ALL_TYPES,
    Rope,
    computed_entries,
    read_rope,
    read_rope_by_layer,
    with_default_rope,
    write_rope,
)
from halcyon_api.sentences import first_fault
from halcyon_api.spec.families.decoder import LayerType
from halcyon_api.spec.families.rope import RopeScaling, RopeType
from halcyon_api.spec.families.section import Activation

REQUIRED = None
"""The default of an integer that every config.json has."""

_COMMON: Mapping[str, Any] = {
    "num_hidden_layers": REQUIRED,
    "hidden_size": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_attention_heads": REQUIRED,
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
"""The keys of all decoders."""

_PROPERTIES = {
    "num_key_value_heads": "key_value_heads",
    "head_dim": "head_size",
    "sliding_window": "window",
    "layer_types": "layers_by_type",
}
"""Keys that are written with the section's default filled in: the property that has it."""

_ACTIVATIONS = {"swish": "silu"}
"""Other names of activation functions in config.json."""
_ABSENT_IF_ZERO = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""Entries whose zero transformers takes for an absent entry, as the first code of DeepSeek did."""
_REQUIRED: Mapping[str, Mapping[str, float]] = {"llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0}}
"""Entries of rotary positions that transformers requires, with our defaults."""


@dataclass(frozen=True)
class DecoderConfig:
    """The config.json of a decoder with rotary positions.

    Attributes:
        section: The class of its section.
        defaults: The keys that are fields of the section, besides those of all decoders (which it may give another
            default): each with the default of the class in transformers, whose type is that of the value.
            ``rope_theta`` is one of them.
        constants: Keys that are always written with one value.
        names: Names of fields that are not those of their keys, by key.
        rope: The object of ``rope_scaling`` of a config.json that states none. Such a class in transformers takes its
            absence for this object, so one is always written. None: the absence means no scaling.
        partial: The rotated part of each head's features if no key has it. None: all are rotated, and there is no such
            key.
        by_layer: Whether the class in transformers has an object of rotary positions for each kind of layers.
        also: See `read_rope`.
    """

    section: type[Any]
    defaults: Mapping[str, Any]
    constants: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    rope: Mapping[str, Any] | None = None
    partial: float | None = None
    by_layer: bool = False
    also: Collection[str] = ()

    def read(self, config: ConfigReader, **changes: Any) -> Any:
        """The section of a config.json, with some fields of the family's own.

        Raises:
            BadConfiguration: A key is missing or wrong.
        """
        return self.section(**{**self.fields(config), **changes})

    def fields(self, config: ConfigReader) -> dict[str, Any]:
        """The fields of the section; see `read`."""
        config = config if self.rope is None else with_default_rope(config, self.rope)
        found = read_keys(config, {**_COMMON, **self.defaults}, self.names)
        theta = self.defaults.get("rope_theta", 10_000.0)
        partial = self.partial is not None
        rope = (
            read_rope_by_layer(config, theta)
            if self.by_layer
            else read_rope(config, theta, partial=partial, also=self.also)
        )
        found |= {"rope_theta": rope.theta, "rope_scaling": _read_scaling(config, rope, by_layer=self.by_layer)}
        return found | ({"partial_rotary_factor": self.partial if rope.part is None else rope.part} if partial else {})

    def write(self, spec: Any, positions: int) -> dict[str, Any]:
        """The entries of config.json.

        Args:
            spec: The section. With `by_layer` it has the field ``rope_local_base_freq``, the base of layers that see
                only a window.
            positions: The longest sequence in tokens.
        """
        rope = _written_rope(spec.rope_theta, spec.rope_scaling, self.also)
        entries = write_rope(rope, always=self.rope is not None)
        if self.by_layer:
            full = rope.entries
            beside = {name: full.pop(name) for name in FOR_ALL_TYPES if name in full}
            windowed = Rope(spec.rope_local_base_freq or spec.rope_theta).entries
            entries["rope_parameters"] = {"full_attention": full, "sliding_attention": windowed, **beside}
        if self.partial is not None:
            part = {"partial_rotary_factor": spec.partial_rotary_factor}
            entries |= {**part, "rope_parameters": {**entries["rope_parameters"], **part}}
        written = write_keys(spec, {**_COMMON, **self.defaults}, self.names)
        return {**written, "max_position_embeddings": positions, "attention_dropout": 0.0, **entries, **self.constants}


def read_keys(config: ConfigReader, defaults: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The values of keys, by the names of their fields.

    Args:
        config: The config.json.
        defaults: See `DecoderConfig`.
        names: See `DecoderConfig`.

    Raises:
        BadConfiguration: A key is missing or wrong.
    """
    return {
        names.get(key, key): _read_key(config, key, default) for key, default in defaults.items() if key != "rope_theta"
    }


def write_keys(spec: Any, keys: Collection[str], names: Mapping[str, str]) -> dict[str, Any]:
    """The values of a section by their keys; see `read_keys`."""
    found = {key: getattr(spec, _PROPERTIES.get(key, names.get(key, key))) for key in keys if key != "rope_theta"}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _read_key(config: ConfigReader, key: str, default: Any) -> Any:
    if key in _READERS:
        return _READERS[key](config, key, default)
    if isinstance(default, bool):
        return config.flag(key, default)
    return config.number(key, default) if isinstance(default, float) else config.integer(key, default)


def _read_nullable(config: ConfigReader, key: str, default: int | None) -> int | None:
    """An integer, or None if it is null. `default` is its value if the key is absent."""
    if key not in config.document:
        return default
    return config.integer(key) if config.has(key) else None


def _read_key_value_heads(config: ConfigReader, key: str, default: int | None) -> int:
    """If it is null, the number of query heads, and also if it is absent and the class has no default."""
    heads = config.integer("num_attention_heads")
    return config.integer(key, heads if default is None or key in config.document else default)


def read_activation(config: ConfigReader, key: str, default: Activation) -> Activation:
    """An activation function.

    Raises:
        BadConfiguration: It is not one that Halcyon computes.
    """
    found: Any = config.text(key, default)
    found = _ACTIVATIONS.get(found, found)
    if found not in get_args(Activation):
        config.only(key, *get_args(Activation))
    return found


def read_layer_types(config: ConfigReader, kinds: tuple[str, ...] = get_args(LayerType)) -> list[Any] | None:
    """``layer_types``; None if it is absent.

    Raises:
        BadConfiguration: It is not a list of kinds of layers that the family has.
    """
    found = config.document.get("layer_types")
    if found is None:
        return None
    if not isinstance(found, list) or not set(found) <= set(kinds):
        raise BadConfiguration(f"{config.where}: layer_types must be a list of {' and '.join(kinds)}")
    return found


def _read_dense_layers(config: ConfigReader, key: str, default: list[int]) -> list[int]:
    found = config.document.get(key) or default
    if not isinstance(found, list) or not all(isinstance(one, int) for one in found):
        raise BadConfiguration(f"{config.where}: {key} must be a list of the numbers of layers")
    return found


_READERS: Mapping[str, Callable[[ConfigReader, str, Any], Any]] = {
    "activation_function": read_activation,
    "head_dim": lambda config, key, default: config.integer(key) if config.has(key) else default,
    "hidden_act": read_activation,
    "hidden_activation": read_activation,
    "layer_types": lambda config, key, default: read_layer_types(config),
    "mlp_only_layers": _read_dense_layers,
    "num_key_value_heads": _read_key_value_heads,
    "q_lora_rank": _read_nullable,
    "sliding_window": _read_nullable,
}
"""How keys are read whose absence or null has a meaning, or whose values are lists or names."""


def _read_scaling(config: ConfigReader, rope: Rope, *, by_layer: bool) -> RopeScaling | None:
    """The change of the rotary frequencies; None for the kind ``default``.

    Args:
        config: The config.json.
        rope: Its rotary positions.
        by_layer: See `DecoderConfig`.

    Raises:
        BadConfiguration: A value is wrong.
    """
    if rope.kind == "default":
        return None
    settings = {
        name: value
        for name, value in rope.settings.items()
        if value is not None and not (name in _ABSENT_IF_ZERO and value == 0)
    }
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


def _written_rope(theta: float, scaling: RopeScaling | None, also: Collection[str]) -> Rope:
    """The rotary positions for config.json: the entries that their kind computes."""
    if scaling is None or scaling.rope_type == "default":
        return Rope(theta)
    computed = computed_entries(scaling.rope_type, also)
    settings = scaling.model_dump(include=set(computed), exclude_none=True)
    return Rope(theta, scaling.rope_type, {**_REQUIRED.get(scaling.rope_type, {}), **settings})
