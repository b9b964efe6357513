"""Renders the reference of the resources: the fields from the schemas of the CRDs, so that they match what the API
server enforces, the effect of an edit and the merge of defaults from their tables.
"""

from collections.abc import Iterator
from typing import Any

from halcyon_api.defaults.units import UNITS
from halcyon_api.edits.classes import EDIT_RULES, MEANINGS, EditClass, class_of
from halcyon_api.generate.crd import custom_resource_definition, defaults_definition
from halcyon_api.generate.pages import page
from halcyon_api.training_run import API_VERSION

Schema = dict[str, Any]

_NAMES: dict[EditClass, str] = {"live": "live", "atCheckpoint": "at a checkpoint", "frozen": "frozen"}


def render() -> str:
    """The text of the reference."""
    run, defaults = map(_schema, (custom_resource_definition(), defaults_definition()))
    return page(
        "trainingrun.md.jinja",
        version=API_VERSION,
        run=run,
        rules=_rules(run),
        defaults=defaults,
        rules_of_defaults=_rules(defaults),
        meanings=MEANINGS,
        classes=_NAMES,
        edit_rules=EDIT_RULES,
        units=UNITS,
        type=_type,
        default=_default,
        edit=_edit,
    )


def _schema(definition: Schema) -> Schema:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _edit(path: str) -> str:
    """The class of a field of ``spec``; by field: fields below it have different classes."""
    path = path.removeprefix("spec.").replace("[]", "")
    edit = class_of(path)
    mixed = any(row.edit != edit for row in EDIT_RULES if row.path.startswith(f"{path}."))
    return "by field" if mixed else _NAMES[edit]


def _type(field: Schema) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{choice}`" for choice in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return (
            f"{_type({**field, 'type': 'integer', 'x-kubernetes-int-or-string': False})} \\| "
            f"`{field['pattern'].strip('^$')}`"
        )
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


def _rules(schema: Schema) -> tuple[str, ...]:
    rules = (rule.get("message") or rule["messageExpression"] for rule in _all_rules(schema))
    return tuple(dict.fromkeys(rules))


def _all_rules(schema: Schema) -> Iterator[dict[str, str]]:
    yield from (rule for rule in schema.get("x-kubernetes-validations", ()) if "message" in rule)
    for child in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else ())):
        yield from _all_rules(child)
