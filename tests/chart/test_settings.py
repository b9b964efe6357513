"""The values of the chart and the operator's settings have the same names, types and defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from halcyon_operator.model.settings import Settings
from tests.chart.conftest import CHART
from tests.chart.test_values import SCHEMA

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
OF_THE_RELEASE = {"trainerImage", "namespaces", "defaultsNamespace", "lease"}
"""Settings that the chart makes from other values, and from names of the release."""
READ_IN_PART = {"metrics", "objectStore", "objectStore.s3", "probes", "probes.priorityClass"}
"""Sections with values that the operator does not need."""
OPERATOR = Settings.model_json_schema(mode="validation")


def plain(schema: Any, root: dict[str, Any]) -> Any:
    """A schema with the schemas that it refers to, with `enum` for `const`, and without the type of such values."""
    if isinstance(schema, list):
        return sorted(
            (plain(each, root) for each in schema),
            key=lambda each: "enum" in each if isinstance(each, dict) else str(each),
        )
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        _, group, name = schema["$ref"].split("/")
        return plain(root[group][name], root)
    found = {
        name: plain(value, root)
        for name, value in schema.items()
        if name not in ("title", "description", "default", "required")
    }
    if isinstance(value := found.pop("const", None), str):
        found["enum"] = [value]
    return found if not isinstance(found.get("enum"), list) else {"enum": found["enum"]}


def differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """Where a schema of the chart lacks a value or a condition of the operator's schema."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from differences(value, theirs.get(name), f"{path}.{name}")
        if "properties" in ours and path.replace(".properties", "") not in READ_IN_PART:
            yield from (
                f"{path}: the operator has no {name}"
                for name in theirs["properties"].keys() - ours["properties"].keys()
            )
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}.{number}")
    elif ours != theirs:
        yield f"{path}: {theirs} in the chart, {ours} in the operator"


@pytest.mark.parametrize("name", sorted(OPERATOR["properties"].keys() - OF_THE_RELEASE))
def test_the_chart_rejects_what_the_operator_would_reject(name: str) -> None:
    ours, theirs = plain(OPERATOR["properties"][name], OPERATOR), plain(SCHEMA["properties"][name], SCHEMA)
    assert list(differences(ours, theirs, name)) == []


def test_the_chart_passes_every_setting() -> None:
    helper = re.search(
        r'define "halcyon.settings".*?end }}', (CHART / "templates" / "_helpers.tpl").read_text(), re.DOTALL
    )
    assert helper is not None
    missing = [name for name in OPERATOR["properties"] if f'"{name}"' not in helper[0]]
    assert not missing, f"halcyon.settings in _helpers.tpl does not name {missing}"


def test_defaults_are_the_same() -> None:
    def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        for name, value in ours.items():
            if isinstance(value, dict) and value:
                same(value, theirs[name])
            else:
                assert theirs[name] == value, name

    ours = Settings(trainer_image="t").document()
    same({name: value for name, value in ours.items() if name not in OF_THE_RELEASE}, VALUES)
