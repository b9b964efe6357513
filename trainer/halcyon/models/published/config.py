"""The form of a family in the files of Hugging Face, and the reader of a config.json: every error is one sentence that
names the key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from halcyon.host.errors import BadConfiguration
from halcyon.models.published.tensors import Tensors
from halcyon_api.spec.families.section import ModelSection

Value = TypeVar("Value", int, float, bool, str)

_ENCODES = "is_encoder_decoder"
_COMMON: Mapping[str, tuple[Any, ...]] = {
    "is_causal": (True,),
    _ENCODES: (False, None),
    "per_layer_config": (None,),
    "transformers_weights": (None,),
}
"""Keys that change every family in transformers if they have other values: the mask, the class, the sizes of single
layers, the files.
"""
_FUSED = ".mlp.experts.gate_up_proj"
_TIED = "tie_word_embeddings"
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


@dataclass(eq=False)
class ConfigReader:
    """A config.json, or an object in it.

    Args:
        document: The object.
        where: Its name in error messages.
    """

    document: Mapping[str, Any]
    where: str = "config.json"

    @staticmethod
    def parse(data: bytes, where: str = "config.json") -> ConfigReader:
        """Read a config.json from its bytes."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadConfiguration(f"{where} is no JSON ({error}); copy the file again") from None
        if not isinstance(document, dict):
            raise BadConfiguration(f"{where} is no JSON object; copy the file again")
        return ConfigReader(document, where)

    def has(self, name: str) -> bool:
        """Whether a key has a value other than null."""
        return self.document.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer; with no default, the key must be there."""
        return self._value(name, int, default)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._value(name, float, default)
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise BadConfiguration(f"{self.where}: {name} is {_shown(value)}, not a finite number; correct it")
        return found

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        return self._value(name, bool, default)

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        return self._value(name, str, default)

    def inner(self, name: str) -> ConfigReader | None:
        """The object at a key; None if the key is absent or null."""
        value = self.document.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadConfiguration(f"{self.where}: {name} is {_shown(value)}, not an object; correct it")
        return ConfigReader(value, f"{self.where}: {name}")

    def part(self, name: str) -> ConfigReader:
        """The object at a key; one without keys if the key is absent or null."""
        return self.inner(name) or ConfigReader({}, self.where)

    def only(self, name: str, *computed: Any) -> None:
        """Reject a value other than those that the family computes. An absent key and null are accepted.

        Raises:
            BadConfiguration: The value is another one.
        """
        value = self.document.get(name)
        if value is not None and value not in computed:
            allowed = " or ".join(map(_shown, computed))
            raise BadConfiguration(
                f"{self.where}: {name} is {_shown(value)}, but Halcyon computes this model only with {allowed}"
            )

    def all_only(self, computed: Mapping[str, Any]) -> None:
        """`only` for each key and its value."""
        for name, value in computed.items():
            self.only(name, value)

    def _value(self, name: str, kind: type[Value], default: Value | None) -> Value:
        value = self.document.get(name)
        if value is None:
            if default is None:
                raise BadConfiguration(f"{self.where} has no {name}; copy the whole file of the model")
            return default
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise BadConfiguration(f"{self.where}: {name} is {_shown(value)}, not {_KINDS[kind]}; correct it")
        return cast("Value", value)


def require_common(config: ConfigReader, *, encodes: bool = False) -> None:
    """Reject values of keys that all families have and that Halcyon does not compute.

    Args:
        config: The config.json.
        encodes: See `PublishedModel`.

    Raises:
        BadConfiguration: There is one.
    """
    for name, computed in _COMMON.items():
        if name not in config.document or config.document[name] in computed or (encodes and name == _ENCODES):
            continue
        if computed == (None,):
            raise BadConfiguration(
                f"{config.where}: {name} is set, but Halcyon does not read it; write the model without it"
            )
        raise BadConfiguration(
            f"{config.where}: {name} is {_shown(config.document[name])}, but Halcyon computes this model only with "
            f"{_shown(computed[0])}"
        )


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


@dataclass(frozen=True)
class PublishedModel:
    """A class of transformers: its name, its tensors, and its config.json.

    Attributes:
        model_type: ``model_type`` of its config.json.
        architectures: Names in ``architectures`` of its config.json; an export has the first.
        tensors: The tensors of a model with a section of the family.
        read: Makes the section from a config.json. It raises ``BadConfiguration`` for a value that the family does not
            compute.
        write: Makes the entries of config.json from a section and the longest sequence in tokens. It leaves out what
            all families have: ``architectures``, ``model_type``, ``vocab_size``, ``dtype`` and the ids of special
            tokens.
        positions: The key of config.json with the longest sequence in tokens.
        defaults: Values of keys that published files leave out because they are those of the class in transformers.
        covers: Whether a model with this section has this form. The first form of a family that covers it is taken.
        fused: Like `tensors`, for files with the gates and ups of all experts of a layer in one tensor. None: there are
            no such files.
        encodes: Whether the model has an encoder, whose states its decoder attends to.
        images: Whether it is the whole of a model with images, of which another form is the text model.
        classes: The class with a head of labels. None: it has the usual name; empty: there is none.
    """

    model_type: str
    architectures: tuple[str, ...]
    tensors: Callable[[Any], Tensors]
    read: Callable[[ConfigReader], ModelSection]
    write: Callable[[Any, int], dict[str, Any]]
    positions: str = "max_position_embeddings"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    covers: Callable[[Any], bool] = lambda section: True
    fused: Callable[[Any], Tensors] | None = None
    encodes: bool = False
    images: bool = False
    classes: str | None = None

    @property
    def classifier(self) -> str:
        """The name of the class with a head of labels; empty: there is none."""
        usual = re.sub("For(CausalLM|MaskedLM)$", "ForSequenceClassification", self.architectures[0])
        return usual if self.classes is None else self.classes

    def section(self, config: ConfigReader) -> ModelSection:
        """The section of a config.json, with the labels of a `classifier`; see `read`."""
        spec = self.read(config)
        if config.document.get("architectures") != [self.classifier] or self.classifier in self.architectures:
            return spec
        return type(spec).model_validate({**spec.document(), "labels": _labels(config)})

    def completed(self, config: ConfigReader) -> ConfigReader:
        """The configuration of the text model, with `defaults`.

        In that of a model with images, it is an object of its own.
        """
        # transformers ties the head of a model with images by the outer object.
        outer = {_TIED: config.document[_TIED]} if config.has(_TIED) else {}
        text = config.part("text_config").document
        return ConfigReader({**self.defaults, **config.document, **text, **outer}, config.where)

    def tensors_in(self, section: Any, names: Collection[str]) -> Tensors:
        """The tensors of a model with this section in files whose tensors have these names. An export has `tensors`."""
        declared = self.tensors(section)
        read = (name for name in names if declared.part(name, names) is None)
        return (
            self.fused(section) if self.fused is not None and any(name.endswith(_FUSED) for name in read) else declared
        )


def _labels(config: ConfigReader) -> list[str]:
    """The names of the classes of a config.json; as transformers names them if it does not.

    Raises:
        BadConfiguration: Their numbers are not 0, 1, 2, …
    """
    found = config.part("id2label").document or {str(number): f"LABEL_{number}" for number in (0, 1)}
    if found.keys() != {*map(str, range(len(found)))}:
        raise BadConfiguration(f"{config.where}: id2label must name the labels 0 to {len(found) - 1}; correct it")
    return [str(name) for _, name in sorted(found.items(), key=lambda entry: int(entry[0]))]
