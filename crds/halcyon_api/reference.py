"""Renders ``docs/reference/trainingrun.md`` from the CRD's schema, so that the reference says what the API server enforces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from halcyon_api.crd import custom_resource_definition
from halcyon_api.exit_codes import FATAL_CODES, ExitCode
from halcyon_api.training_run import API_VERSION

Schema = dict[str, Any]

_HEADER = f"""<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# TrainingRun ({API_VERSION})

Every field of the document, as `kubectl explain trainingrun --recursive` shows it. A field without a default and not marked
required may be left out. Rules are checked by the API server when the document is applied, and by `halcyon validate`.
"""


def render() -> str:
    """The text of the reference."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [_HEADER]
    for section in ("spec", "status"):
        parts.append(f"## {section}\n")
        parts.extend(_tables(section, schema["properties"][section]))
    parts.append(_rules(schema))
    parts.append(_exit_codes())
    return "\n".join(parts).rstrip() + "\n"


def _tables(path: str, schema: Schema) -> Iterator[str]:
    yield f"### `{path}`\n\n{schema.get('description', '')}\n"
    required = set(schema.get("required", ()))
    rows: list[str] = []
    nested: list[tuple[str, Schema]] = []
    for name, field in schema.get("properties", {}).items():
        rows.append(f"| `{name}` | {_type(field)} | {_default(field, name in required)} | {_cell(field.get('description', ''))} |")
        inner = field.get("items", field)
        if inner.get("properties"):
            nested.append((f"{path}.{name}{'[]' if 'items' in field else ''}", inner))
    if rows:
        yield "| field | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for child_path, child in nested:
        yield from _tables(child_path, child)


def _type(field: Schema) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{choice}`" for choice in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    bounds: list[str] = []
    if "minimum" in field:
        bounds.append(f"{'>' if field.get('exclusiveMinimum') else '≥'} {field['minimum']}")
    if "maximum" in field:
        bounds.append(f"{'<' if field.get('exclusiveMaximum') else '≤'} {field['maximum']}")
    return field["type"] + (f" {', '.join(bounds)}" if bounds else "")


def _default(field: Schema, required: bool) -> str:
    if required:
        return "**required**"
    default = field.get("default")
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, dict):
        return f"`{next(iter(default))}`" if _is_choice(field) else "see below"  # pyright: ignore[reportUnknownArgumentType]
    return "" if default is None else f"`{default}`"


def _is_choice(field: Schema) -> bool:
    return any("exactly one of" in rule.get("message", "") for rule in field.get("x-kubernetes-validations", ()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _rules(schema: Schema) -> str:
    lines = ["## Rules\n"]
    lines.extend(f"- {rule.get('message') or rule['messageExpression']}" for rule in _all_rules(schema))
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _all_rules(schema: Schema) -> Iterator[dict[str, str]]:
    yield from (rule for rule in schema.get("x-kubernetes-validations", ()) if "message" in rule)
    for child in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else ())):
        yield from _all_rules(child)


def _exit_codes() -> str:
    lines = ["## Exit codes of the trainer\n", "| code | name | retried |", "|---|---|---|"]
    for code in ExitCode:
        retried = "" if code == ExitCode.DONE else "no" if code in FATAL_CODES else "yes, free of charge" if code == 42 else "yes, counted"
        lines.append(f"| {code.value} | {code.name} | {retried} |")
    return "\n".join(lines) + "\n"
