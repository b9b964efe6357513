"""Levanter's configuration to a TrainingRun. Pure, but for the files that `read` reads."""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from halcyon_api.plain_files import read_text
from halcyon_api.training_run import API_VERSION
from halcyon_api.yaml_text import read_document
from halcyon_cli.levanter import sections
from halcyon_cli.levanter.settings import Settings, Spec, put

_INCLUDE = re.compile(r"!include\s+(\S+)")
_INCLUDED = "!include"
_MOST_INCLUDES = 16


@dataclass(frozen=True)
class Conversion:
    """A run, and what it does not have of the configuration.

    Attributes:
        document: The TrainingRun, not validated.
        notes: One line for each setting that has no field, with the reason.
    """

    document: Spec
    notes: tuple[str, ...]


def rows() -> dict[str, list[Spec]]:
    """The rows of ``rows.yaml`` by their title."""
    return cast("dict[str, list[Spec]]", _table("rows.yaml"))


def _rows() -> Iterator[Spec]:
    return (row for group in rows().values() for row in group)


@cache
def _table(name: str) -> Any:
    return read_document((files("halcyon_cli.levanter") / name).read_text(encoding="utf-8"))


def read(path: Path) -> Spec:
    """A configuration with the files that it includes.

    Raises:
        InvalidYaml: A file is not YAML.
        OSError: A file cannot be read.
        ValueError: A file has no settings, or files include each other.
    """
    found = _included(path, 0)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: this is no configuration of Levanter; give a file with model, data and trainer")
    return cast("Spec", found)


def _included(path: Path, depth: int) -> Any:
    if depth > _MOST_INCLUDES:
        raise ValueError(f"{path}: !include goes deeper than {_MOST_INCLUDES} files; take the circle out")
    text = _INCLUDE.sub(lambda found: f'{{"{_INCLUDED}": "{found[1]}"}}', read_text(path))

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(one) for one in cast("list[Any]", node)]
        if not isinstance(node, dict):
            return node
        named = cast("Spec", node)
        if set(named) == {_INCLUDED}:
            return _included(path.parent / named[_INCLUDED], depth + 1)
        return {name: walk(one) for name, one in named.items()}

    return walk(read_document(text))


def convert(configuration: Mapping[str, Any], name: str, accelerator: Mapping[str, Any], devices: int) -> Conversion:
    """The run of a configuration.

    Args:
        configuration: The settings, see `read`. It is not changed.
        name: Name of the run, if the configuration has none.
        accelerator: ``spec.accelerator``: Levanter's settings do not say it.
        devices: Devices of it, for settings that count by device.

    Raises:
        ValueError: It trains nothing, or a model that Halcyon does not have; the sentence names the setting.
    """
    settings = Settings(deepcopy(dict(configuration)))
    if not {"trainer", "optimizer"} & set(configuration):
        raise ValueError(
            f"the configuration has {', '.join(configuration) or 'nothing'}, and no trainer, so it trains nothing; "
            "give the one that includes it, or see halcyon export, eval and generate"
        )
    given = sections.Given(_table("tables.yaml"), devices, sections.dns_name(str(settings.take("trainer.id") or name)))
    spec: Spec = {"accelerator": dict(accelerator)}
    notes: list[str] = []
    for section in sections.ALL:
        try:
            notes += section(settings, spec, given)
        except (AttributeError, LookupError, TypeError) as error:
            what = section.__name__.strip("_")
            raise ValueError(f"a setting of {what} has another form than Levanter's ({error}); correct it") from None
    for row in _rows():
        notes += _copied_fields(row, settings, spec)
    notes += _left(settings.left())
    document = {"apiVersion": API_VERSION, "kind": "TrainingRun", "metadata": {"name": given.name}, "spec": spec}
    return Conversion(document, tuple(dict.fromkeys(notes)))


def _copied_fields(row: Mapping[str, Any], settings: Settings, spec: Spec) -> Iterator[str]:
    """Copy the settings of a row into their fields, as the head of ``rows.yaml`` says."""
    names, fields = row.get("set", ()), () if row.get("code") else row.get("to", ())
    for field in fields:
        several = names if len(fields) == 1 else (names[fields.index(field)],)
        value = settings.first(*several, default=row.get("else"))
        values: Spec = row.get("values", {})
        found = values.get(str(value).lower()) if values else value
        if value is not None and found is None:
            yield f"{several[0]}: {value} is not here; there are {', '.join(values)}"
        put(spec, field, found)
    for name in names if "default" in row else ():
        if settings.peek(name) == row["default"]:
            settings.take(name)


def _left(paths: Iterator[str]) -> Iterator[str]:
    """A note for each setting that nothing has used: what its row says, or that there is none."""
    said = {
        setting: cast("str", row["says"])
        for row in _rows()
        if "says" in row
        for setting in cast("Sequence[str]", row.get("set", ()))
    }
    for path in paths:
        parts = path.split(".")
        above = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        reason = next((said[one] for one in above if one in said), "unknown; it is not in the table")
        yield f"{path}: {reason.removeprefix(': ').removeprefix('; ')}"
