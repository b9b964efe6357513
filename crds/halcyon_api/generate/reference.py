"""Renders the references of the resources from the schemas of the CRDs, so that they match what the API server
enforces, and the reference of edits from their table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from halcyon_api.defaults.units import UNITS
from halcyon_api.edits.classes import EDIT_RULES, MEANINGS, EditClass, class_of, leaves_of
from halcyon_api.generate.crd import custom_resource_definition, defaults_definition
from halcyon_api.training_run import API_VERSION, TrainingRunSpec

_EDITS_HEADER = """\
<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# The effect of an edit

Every field of `spec` has one class. The API server, the operator and `kubectl halcyon diff` use the same table. The
[guide](../guides/editing.md) describes how to edit a run.

| class | an edit is |
|---|---|
"""

_STARTS_AGAIN = """\
## A run that has stopped

A run that has stopped (`Stalled`), or whose next attempt is delayed, starts again after an edit of a field that may be related to the
cause. These are all fields except {fields}. `kubectl halcyon restart` starts the run again without an edit.
"""

_STEPS = """\
## trainer.steps

The number of steps may increase or decrease if each finished step would have been the same with the new number:

| schedule | may change |
|---|---|
| `constant` | always |
| `cosine` with `decaySteps` | always; after `decaySteps` the learning rate stays at its minimum |
| `cosine` without | during the warm-up |
| `wsd` | until the decay begins, `decaySteps` before the end, with the old number and with the new one |
| `phases`, or with `otherSchedules` | before the first step |

It must not be less than the finished steps, and must not change with `data.mixture.simulateTokens`, because the data then depends on it. A
run that has ended continues when it gets more steps. The API server checks against the step in the status, the operator against the newest
step that it knows, the trainer against the checkpoint. Each rejects with the same sentence, and a rejected edit does not stop a training
run.
"""


def render_edits() -> str:
    """The text of the reference of edits, from their table."""
    parts = [_EDITS_HEADER + "".join(f"| {_name(edit)} | {meaning} |\n" for edit, meaning in MEANINGS.items())]
    for edit in MEANINGS:
        rows = [row for row in EDIT_RULES if row.edit == edit]
        parts.append(
            f"## {_name(edit)}\n\n| field | why |\n|---|---|\n"
            + "".join(f"| `{row.path}` | {row.why} |\n" for row in rows)
        )
    parts.append(_STARTS_AGAIN.format(fields=", ".join(f"`{row.path}`" for row in EDIT_RULES if not row.starts_again)))
    parts.append(_STEPS)
    parts.append(
        "## Field by field\n\n| field | class |\n|---|---|\n"
        + "".join(_line(leaf.path) for leaf in leaves_of(TrainingRunSpec))
    )
    return "\n".join(parts)


def _line(path: str) -> str:
    return f"| `{path}` | {_name(class_of(path))} |\n"


def _name(edit: EditClass) -> str:
    return {"live": "live", "atCheckpoint": "at a checkpoint", "frozen": "frozen"}[edit]


Schema = dict[str, Any]

_HEADER = f"""<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# TrainingRun ({API_VERSION})

Every field of the document, as `kubectl explain trainingrun --recursive` shows it. A field without a default and not marked
required may be left out. Rules are checked by the API server when the document is applied, and by `halcyon validate`.
"""


_DEFAULTS_HEADER = f"""<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# TrainingRunDefaults ({API_VERSION})

Every field of the document, as `kubectl explain trainingrundefaults --recursive` shows it. Each field may be left out and then has no
value; a run takes the value of the next less specific defaults, or at last the built-in default in [its reference](trainingrun.md).
[The guide](../guides/defaults.md) describes how and when runs take the values.
"""


def render_defaults() -> str:
    """The text of the reference of TrainingRunDefaults."""
    schema = _schema(defaults_definition())
    parts = [
        _DEFAULTS_HEADER,
        "## spec\n",
        *_tables("spec", schema["properties"]["spec"]),
        _units(),
        _rules(schema),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _units() -> str:
    lines = ["## How they are merged\n", "| field | from two documents |", "|---|---|"]
    for unit in UNITS:
        how = (
            "merged key by key"
            if unit.merged
            else "merged by name, each entry whole"
            if unit.named
            else "the more specific one, whole"
        )
        lines.append(f"| `{unit.path}` | {how}{', not below a document that sets the root' if unit.store else ''} |")
    return "\n".join(lines) + "\n"


def _schema(definition: Schema) -> Schema:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def render() -> str:
    """The text of the reference of TrainingRun."""
    schema = _schema(custom_resource_definition(in_full=True))
    parts = [_HEADER]
    for section in ("spec", "status"):
        parts.append(f"## {section}\n")
        parts.extend(_tables(section, schema["properties"][section]))
    parts.append(_rules(schema))
    return "\n".join(parts).rstrip() + "\n"


def _tables(path: str, schema: Schema) -> Iterator[str]:
    yield f"### `{path}`\n\n{schema.get('description', '')}\n"
    required = set(schema.get("required", ()))
    rows: list[str] = []
    nested: list[tuple[str, Schema]] = []
    for name, field in schema.get("properties", {}).items():
        rows.append(
            f"| `{name}` | {_type(field)} | {_default(field, name in required)} | "
            f"{_cell(field.get('description', ''))} |"
        )
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
