"""Rotary positions in config.json, in both forms.

Since version 5, transformers writes ``rope_parameters`` with the base and the scaling. Before, it wrote ``rope_theta``
and ``rope_scaling``, and readers of that form take their own default in silence if ``rope_theta`` is missing. So both
forms are read, and both are written. Families whose kinds of layers have different rotary positions have one object for
each kind in ``rope_parameters``.

Programs read the entries in different ways: they differ in which form they take first, and some ignore an entry that
others compute, such as ``attn_factor``, by which vLLM and llama.cpp multiply and transformers does not. So an entry is
read only if it is on the list of its kind of scaling, and a file whose forms disagree is rejected.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from halcyon.host.errors import BadConfiguration
from halcyon.models.published.config import ConfigReader

LAYER_TYPES = ("full_attention", "sliding_attention")
FOR_ALL_TYPES = ("truncate",)
"""Entries that transformers looks for beside the objects of the kinds of layers, not in them."""
_TYPE, _FORMER_TYPE, _THETA, _PART = "rope_type", "type", "rope_theta", "partial_rotary_factor"
_NEW, _FORMER = "rope_parameters", "rope_scaling"

_LONGER = frozenset({"factor", "original_max_position_embeddings"})
_ENTRIES: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": _LONGER | {"low_freq_factor", "high_freq_factor"},
    "yarn": _LONGER | {"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"},
}
"""The entries of each kind that are computed, besides the kind, the base and the rotated part."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""Those that transformers requires."""
_NEUTRAL: Mapping[str, float] = {"attn_factor": 1, "extrapolation_factor": 1}
"""Factors of YaRN that some programs compute, with the value that changes nothing."""
_FOR_IMAGES = frozenset({"mrope_section", "mrope_interleaved"})
"""Entries for the positions of images.

A text has the same number in all dimensions of its positions, so they change nothing.
"""


@dataclass(frozen=True)
class Rope:
    """The rotary positions of a config.json.

    Attributes:
        theta: Base of the frequencies.
        kind: ``default``, ``linear``, ``llama3`` or ``yarn``.
        settings: The other entries, such as ``factor``, by their names in config.json.
        part: The part of each head's features that is rotated; None: the file does not say.
    """

    theta: float
    kind: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    part: float | None = None

    @property
    def entries(self) -> dict[str, Any]:
        """The object of ``rope_parameters``."""
        return {_TYPE: self.kind, _THETA: self.theta, **self.settings}


def with_default_rope(config: ConfigReader, default: Mapping[str, Any]) -> ConfigReader:
    """A config.json with the rotary positions of its class in transformers, if it states none. An empty object states
    none only in ``rope_scaling``.

    Args:
        config: The config.json.
        default: The object of ``rope_scaling``. A base in it comes before ``rope_theta``.
    """
    if config.part(_FORMER).document or config.has(_NEW):
        return config
    beside = {name: value for name, value in config.document.items() if name != _THETA or _THETA not in default}
    return ConfigReader({**beside, _FORMER: default}, config.where)


def read_rope(config: ConfigReader, default_theta: float, *, partial: bool, also: Collection[str]) -> Rope:
    """The rotary positions of a model whose layers all have the same ones.

    Args:
        config: The config.json.
        default_theta: The base if no key has it: the default of the class in transformers.
        partial: Whether the family rotates a part of each head.
        also: Entries that the family computes for every kind of scaling.

    Raises:
        BadConfiguration: A value has the wrong type, an entry is not computed, or two places disagree.
    """
    new, former = config.part(_NEW), config.part(_FORMER)
    _require_same_kind(config, new, former)
    rope = _read(config, new if new.document else former, default_theta, also)
    if new.document and former.document:
        _require_same(config, rope, _read(config, former, default_theta, also))
    _require_part(config, rope, partial)
    return rope


def read_rope_by_layer(config: ConfigReader, default_theta: float) -> Rope:
    """The rotary positions of the layers that see the whole sequence, in a family that has an object for each kind of
    layers.

    transformers ignores ``truncate`` in the objects, and so does an import.

    Args:
        config: The config.json.
        default_theta: See `read_rope`.

    Raises:
        BadConfiguration: See `read_rope`.
    """
    new, former = config.part(_NEW), config.part(_FORMER)
    beside = [name for name in new.document if name not in (*LAYER_TYPES, *FOR_ALL_TYPES)]
    if beside:
        raise BadConfiguration(
            f"{new.where} has {beside[0]} beside the objects of the kinds of layers, which this family needs; write "
            f"{' and '.join(LAYER_TYPES)} with entries of their own"
        )
    full = new.part(LAYER_TYPES[0])
    rope = _read(config, full if full.document else former, default_theta)
    if former.has(_FORMER_TYPE) and not former.has(_TYPE) and rope.kind != "default":
        raise BadConfiguration(
            f"{former.where}: the kind {rope.kind} is named by {_FORMER_TYPE}, which version 5 of transformers ignores "
            f"in this family; name it by {_TYPE}"
        )
    settings = {name: value for name, value in rope.settings.items() if name not in FOR_ALL_TYPES}
    shared = {
        name: new.document[name] for name in FOR_ALL_TYPES if name in new.document and name in _ENTRIES[rope.kind]
    }
    rope = replace(rope, settings=settings | shared)
    if full.document and former.document:
        _require_same_kind(config, full, former)
        other = _read(config, former, rope.theta)
        read = {name: value for name, value in other.settings.items() if name in shared or name not in FOR_ALL_TYPES}
        _require_same(config, rope, replace(other, settings=read))
    _require_part(config, rope, False)
    return rope


def read_windowed_theta(config: ConfigReader, key: str | None, default_theta: float) -> float:
    """The base of the layers that see a window, which have no scaling.

    Args:
        config: The config.json.
        key: The key of the base in the former form; None: there is none.
        default_theta: The base if no place has it.

    Raises:
        BadConfiguration: They have a scaling, or two places disagree.
    """
    windowed = config.part(_NEW).part(LAYER_TYPES[1])
    own = {} if key is None or not config.has(key) else {_THETA: config.number(key)}
    rope = require_default(config, _read(ConfigReader(own, config.where), windowed, default_theta))
    _require_part(ConfigReader({}, config.where), rope, False)
    return rope.theta


def _kind(scaling: ConfigReader) -> str:
    return scaling.text(_TYPE, scaling.text(_FORMER_TYPE, "default"))


def _read(config: ConfigReader, scaling: ConfigReader, default_theta: float, also: Collection[str] = ()) -> Rope:
    """The rotary positions of an object."""
    kind = _kind(scaling)
    if scaling.has(_FORMER_TYPE) and scaling.text(_FORMER_TYPE) != kind:
        raise BadConfiguration(
            f"{scaling.where}: {_TYPE} is {kind}, and {_FORMER_TYPE} is {scaling.text(_FORMER_TYPE)}; correct the "
            "wrong one"
        )
    if kind not in _ENTRIES:
        raise _other_kind(config, kind, *_ENTRIES)
    theta = scaling.number(_THETA, config.number(_THETA, default_theta))
    beside = config.number(_THETA, theta)
    if beside != theta:
        raise BadConfiguration(
            f"{scaling.where}: {_THETA} is {theta}, and {beside} beside {_NEW} and {_FORMER}; correct the wrong one"
        )
    part = scaling.number(_PART) if scaling.has(_PART) else config.number(_PART) if config.has(_PART) else None
    for name in _NEEDED.get(kind, ()):
        if name not in scaling.document:
            raise BadConfiguration(
                f"{scaling.where} has no {name}, which {_TYPE} {kind} needs; copy the whole file of the model"
            )
    known = computed_entries(kind, also)
    settings: dict[str, Any] = {}
    for name, value in scaling.document.items():
        if name in known:
            settings[name] = value
        elif not (
            name in _FOR_IMAGES
            or name in (_TYPE, _FORMER_TYPE, _THETA, _PART)
            or value is None
            or _NEUTRAL.get(name) == value
        ):
            raise BadConfiguration(
                f"{scaling.where}: {name} is {value}, which Halcyon does not compute for {_TYPE} {kind}, and programs "
                "differ in whether they do; delete it if the model was trained without it"
            )
    return Rope(theta, kind, settings, part)


def _require_same_kind(config: ConfigReader, new: ConfigReader, former: ConfigReader) -> None:
    kinds = [_kind(one) for one in (new, former) if one.document]
    if len(set(kinds)) > 1:
        raise _different(config, _TYPE, *kinds)


def _require_same(config: ConfigReader, new: Rope, former: Rope) -> None:
    """Reject a file whose two forms say different things: readers differ in which one they take."""
    pairs: dict[str, tuple[Any, Any]] = {_THETA: (new.theta, former.theta), _PART: (new.part, former.part)}
    pairs |= {name: (new.settings.get(name), former.settings.get(name)) for name in {**new.settings, **former.settings}}
    for name, (one, other) in pairs.items():
        if one != other:
            raise _different(config, name, one, other)


def _different(config: ConfigReader, name: str, new: Any, former: Any) -> BadConfiguration:
    return BadConfiguration(
        f"{config.where}: {name} is {new} in {_NEW} and {former} in {_FORMER}; correct the wrong one, or leave it out"
    )


def _require_part(config: ConfigReader, rope: Rope, partial: bool) -> None:
    beside = config.number(_PART) if config.has(_PART) else None
    if not partial and (rope.part not in (None, 1.0) or beside not in (None, 1.0)):
        raise BadConfiguration(f"{config.where}: {_PART} is not 1, but Halcyon computes this model only with 1")
    if beside is not None and rope.part != beside:
        raise BadConfiguration(
            f"{config.where}: {_PART} is {beside}, and {rope.part} in {_NEW} or {_FORMER}; correct the wrong one"
        )


def require_default(config: ConfigReader, rope: Rope) -> Rope:
    """Return `rope` if it is not scaled.

    Raises:
        BadConfiguration: The family does not compute this kind.
    """
    if rope.kind != "default":
        raise _other_kind(config, rope.kind, "default")
    return rope


def _other_kind(config: ConfigReader, kind: str, *kinds: str) -> BadConfiguration:
    return BadConfiguration(
        f"{config.where}: {_TYPE} is {kind}, but Halcyon computes this model only with {' or '.join(kinds)}; take "
        "another model"
    )


def write_rope(rope: Rope, *, always: bool) -> dict[str, Any]:
    """The entries of config.json, in both forms.

    Args:
        rope: The rotary positions.
        always: Whether ``rope_scaling`` has an object for the kind ``default`` too, because its absence has another
            meaning.
    """
    scaling = None if rope.kind == "default" and not always else {_TYPE: rope.kind, **rope.settings}
    return {_NEW: rope.entries, _THETA: rope.theta, _FORMER: scaling}


def computed_entries(kind: str, also: Collection[str]) -> frozenset[str]:
    """The entries that a kind of scaling computes."""
    return _ENTRIES[kind] | set(also if kind != "default" else ())
