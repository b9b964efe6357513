"""Reads values of a config.json. Every error is one sentence that names the key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from halcyon.errors import BadConfiguration

Value = TypeVar("Value", int, float, bool, str)

_COMMON: Mapping[str, tuple[Any, ...]] = {
    "is_causal": (True,),
    "is_encoder_decoder": (False, None),
    "per_layer_config": (None,),
    "transformers_weights": (None,),
}
"""Keys that change every family in transformers if they have other values: the mask, the class, the sizes of single
layers, the files.
"""
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


class ConfigReader:
    """A config.json, or an object in it.

    Args:
        document: The object.
        where: Its name in error messages.
    """

    def __init__(self, document: Mapping[str, Any], where: str = "config.json") -> None:
        self.document, self.where = document, where

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

    def empty(self) -> ConfigReader:
        """An object without keys."""
        return ConfigReader({}, self.where)

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


def require_common(config: ConfigReader) -> None:
    """Reject values of keys that all families have and that Halcyon does not compute.

    Raises:
        BadConfiguration: There is one.
    """
    for name, computed in _COMMON.items():
        if name not in config.document or config.document[name] in computed:
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
