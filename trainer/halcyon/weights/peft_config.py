"""Reads the adapter_config.json of a LoRA adapter of peft, and rejects what cannot be added to the weights of a model.

peft reads the meaning of an adapter from this file: some values change the weights of the base when the adapter is
loaded (``pissa``), some compute other functions of the factors (``use_qalora``), and some choose the tokens that the
adapter works on (aLoRA). So the file is read with a list of what Halcyon computes. A field that is not on it is
rejected, unless its value says that the feature is not used. The list is that of peft 0.21: ``tuners/lora/config.py``,
and ``check_target_module_exists`` and ``get_pattern_key`` for names of modules.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from halcyon.host.errors import BadConfiguration
from halcyon.host.limits.apart import Apart, Failed
from halcyon.host.limits.patterns import Compiled
from halcyon.models.published import ConfigReader

_PLAIN = re.compile(r"(?:[\w\-]|\\?\.)*")
"""Expressions of names alone, which need no budget."""
CONFIG_KEY = "adapter_config.json"

_RANK, _ALPHA = 8, 8.0
"""The defaults of peft for ``r`` and ``lora_alpha``."""
_MERGE = "merge it with peft (merge_and_unload), if peft can, and import the model"
_CONVERT = "write it again with peft: save_pretrained(folder, path_initial_model_for_weight_conversion=...)"

_COMPUTED = frozenset(
    {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights",
    "bias", "task_type",
     "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
)  # fmt: skip
"""Fields that `read_adapter_config` reads."""
_UNCHANGED = frozenset(
    {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "lora_dropout",
    "merge_weights",
     "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
     "eva_config", "corda_config", "loftq_config", "lora_ga_config"}
)  # fmt: skip
"""Fields that change no number of the linear maps, whatever their value. peft takes ``fan_in_fan_out`` from the kind of
the module, reads the settings of an initialisation only with it, and ties weights only of adapted embeddings, which are
rejected."""
_INITIALISATIONS = ("gaussian", "orthogonal", "eva", "mica")
"""Values of ``init_lora_weights`` besides true, false and null that leave the weights of the base as they are. Others
change them (``pissa``), so the factors of the file belong to other weights than those of the base."""
_TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")
_ALL_LINEAR, _ALL_BUT_HEAD = "all-linear", r"(?!lm_head$).*"
_SHOWN = 80
_MOST_DIGITS = 9
_Rank = Annotated[int, Field(ge=1)]


class Pattern:
    """A regular expression of the file.

    Args:
        where: Its field, for messages.
        written: The expression as the field has it.
        form: What peft makes of it, with ``{}`` in its place.

    Raises:
        Failed: It is not valid.
        OverLimit: It is too large.
    """

    def __init__(self, where: str, written: str, form: str) -> None:
        made = form.replace("{}", written)
        # Names alone need no process of their own.
        self._plain = Compiled(made) if _PLAIN.fullmatch(written) else None
        self._apart = Apart(where, Compiled, made)
        if self._plain is None:
            self._apart.call("groups")

    def match(self, module: str, *, whole: bool = False) -> dict[str, str | None] | None:
        """The named groups of its match with the beginning of a name, or with the whole name; None: it does not match.

        Raises:
            OverLimit: It needs too much time.
        """
        return self._apart.call("match", module, whole) if self._plain is None else self._plain.match(module, whole)


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter_config.json says of low-rank maps.

    Attributes:
        where: The file, for messages.
        rank: Rank of a module that no pattern of `ranks` matches.
        alpha: The same for `alphas`.
        ranks: Ranks by patterns of names of modules. The first one that matches counts.
        alphas: The same.
        rooted: Whether alpha is divided by the root of the rank.
        dora: Whether the file of tensors has the lengths of the columns (DoRA).
        targets: Names of the adapted modules or their ends, or a pattern of the whole name. None: those that peft
            chooses.
        excluded: The same for modules without an adapter.
        layers: Numbers of the adapted layers. None: all.
        lists: Patterns of the names of lists of layers. Empty: any.
    """

    where: str
    rank: int
    alpha: float
    ranks: tuple[tuple[Pattern, int], ...]
    alphas: tuple[tuple[Pattern, float], ...]
    rooted: bool
    dora: bool
    targets: frozenset[str] | Pattern | None
    excluded: frozenset[str] | Pattern | None
    layers: frozenset[int] | None
    lists: tuple[Pattern, ...]

    def rank_of(self, module: str) -> int:
        """The rank of a module, by its name in transformers."""
        return next((rank for pattern, rank in self.ranks if pattern.match(module) is not None), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of the product of a module's maps."""
        alpha = next((alpha for pattern, alpha in self.alphas if pattern.match(module) is not None), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rooted else rank)

    def is_target(self, module: str) -> bool:
        """Whether peft adapts a module. It leaves tensors of other modules out."""
        if self.excluded is not None and _named(self.excluded, module):
            return False
        if self.targets is not None and not _named(self.targets, module):
            return False
        return self.layers is None or self._layer(module) in self.layers

    def _layer(self, module: str) -> int | None:
        """The number of a module's layer: the first number in its name that follows the name of a list of layers."""
        found = next((match for pattern in self.lists if (match := pattern.match(module)) is not None), None)
        index = None if found is None else found.get("index")
        return int(index) if index is not None and len(index) <= _MOST_DIGITS else None


def read_adapter_config(data: bytes, where: str) -> AdapterConfig:
    """Read an adapter_config.json.

    Args:
        data: Its bytes.
        where: Its name in messages.

    Raises:
        BadConfiguration: It is damaged, or says something that Halcyon does not compute; the message names the field.
    """
    fields = _Fields(ConfigReader.parse(data, where).document, where)
    if fields.get("peft_type") != "LORA":
        raise BadConfiguration(f"{where}: peft_type is {fields.get('peft_type')}; only LORA can be added to weights")
    fields.require_known()
    lists = fields.names("layers_pattern") or []
    of_lists = [(name, r"(?:^|.*?\.){}") for name in ([lists] if isinstance(lists, str) else lists)] or [
        ("", r".*?\.[^.]*")
    ]
    return AdapterConfig(
        where=where,
        rank=fields.rank("r", fields.get("r", _RANK)),
        alpha=fields.alpha("lora_alpha", fields.get("lora_alpha", _ALPHA)),
        ranks=tuple(
            (pattern, fields.rank("rank_pattern", value)) for pattern, value in fields.patterns("rank_pattern")
        ),
        alphas=tuple(
            (pattern, fields.alpha("alpha_pattern", value)) for pattern, value in fields.patterns("alpha_pattern")
        ),
        rooted=fields.flag("use_rslora"),
        dora=fields.flag("use_dora"),
        targets=fields.modules("target_modules"),
        excluded=fields.modules("exclude_modules"),
        layers=fields.layers(),
        lists=tuple(fields.compiled("layers_pattern", name, rf"{form}\.(?P<index>\d+)\.") for name, form in of_lists),
    )


@dataclass(eq=False)
class _Fields:
    """The fields of an adapter_config.json. Every error names the field."""

    fields: Mapping[str, Any]
    where: str

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field; `default` if it is absent."""
        return self.fields.get(name, default)

    def require_known(self) -> None:
        """Reject each field with a feature that Halcyon does not compute."""
        if (task := self.get("task_type")) not in _TASKS:
            raise self._wrong(
                "task_type", task, "only adapters of language models can be added; give one with the task CAUSAL_LM"
            )
        if (bias := self.get("bias")) not in (None, "none"):
            raise self._wrong("bias", bias, f"Halcyon adds only low-rank maps; {_MERGE}")
        value = self.get("init_lora_weights", True)
        if not (value is None or isinstance(value, bool) or value in _INITIALISATIONS):
            fix = f"{_MERGE}, or {_CONVERT}"
            raise self._wrong("init_lora_weights", value, f"it may belong to changed weights of the base; {fix}")
        for name, value in self.fields.items():
            # Null, false and an empty list say that a feature is not used. An empty object is one with its defaults.
            if name not in _COMPUTED | _UNCHANGED and value is not False and value not in (None, []):
                raise self._wrong(name, value, f"Halcyon does not compute what it changes; {_MERGE}")

    def checked(self, name: str, value: Any, kind: Any, why: str) -> Any:
        """A value of a field, if it is of a kind."""
        try:
            return TypeAdapter(kind).validate_python(value, strict=True)
        except (ValidationError, OverflowError):
            raise self._wrong(name, value, f"{why}; correct it") from None

    def flag(self, name: str) -> bool:
        """True or false; null is false."""
        return bool(self.checked(name, self.get(name), bool | None, "it must be true or false"))

    def rank(self, name: str, value: Any) -> int:
        """A rank of a field."""
        return self.checked(name, value, _Rank, "a rank must be an integer of at least 1")

    def alpha(self, name: str, value: Any) -> float:
        """An alpha of a field."""
        return self.checked(name, value, FiniteFloat, "an alpha must be a finite number")

    def patterns(self, name: str) -> list[tuple[Pattern, Any]]:
        """The patterns of names of a field, as peft matches them, with their values."""
        found = self.checked(name, self.get(name) or {}, dict[str, Any], "it must be an object")
        return [(self.compiled(name, key, r"(.*\.)?({})$"), value) for key, value in found.items()]

    def names(self, name: str) -> str | list[str] | None:
        """A text or a list of texts; None if it is absent or null."""
        return self.checked(name, self.get(name), str | list[str] | None, "it must be a text or a list of texts")

    def modules(self, name: str) -> frozenset[str] | Pattern | None:
        """Names of modules or their ends, or a pattern of the whole name. None: the field is absent or null."""
        found = self.names(name)
        if isinstance(found, str):
            return self.compiled(name, _ALL_BUT_HEAD if found.lower() == _ALL_LINEAR else found)
        return None if found is None else frozenset(found)

    def layers(self) -> frozenset[int] | None:
        """The numbers of the adapted layers; None: all."""
        why = "it must be a number or a list of numbers of layers"
        found = self.checked("layers_to_transform", self.get("layers_to_transform"), int | list[int] | None, why)
        return frozenset(found if isinstance(found, list) else [] if found is None else [found]) or None

    def compiled(self, name: str, pattern: str, form: str = "{}") -> Pattern:
        """A regular expression of a field, and what peft makes of it."""
        try:
            return Pattern(f"{self.where}: {name}", pattern, form)
        except (Failed, re.error) as error:
            raise self._wrong(name, pattern, f"it is no regular expression ({error}); correct it") from None

    def _wrong(self, name: str, value: Any, why: str) -> BadConfiguration:
        shown = json.dumps(value)
        return BadConfiguration(
            f"{self.where}: {name} is {shown if len(shown) <= _SHOWN else f'{shown[:_SHOWN]}...'}: {why}"
        )


def _named(names: frozenset[str] | Pattern, module: str) -> bool:
    if isinstance(names, Pattern):
        return names.match(module, whole=True) is not None
    return module in names or any(module.endswith(f".{name}") for name in names)
