"""Renders the reference of the resources: the fields from the schemas of the CRDs, so that they match what the API
server enforces, the effect of an edit and the merge of defaults from their tables.
"""

from collections.abc import Iterator
from typing import Any

from halcyon_api.defaults.units import UNITS, Unit
from halcyon_api.edits.classes import EDIT_RULES, MEANINGS, EditClass, class_of
from halcyon_api.generate.crd import custom_resource_definition, defaults_definition
from halcyon_api.training_run import API_VERSION

Schema = dict[str, Any]

_HEADER = f"""<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# TrainingRun ({API_VERSION})

Every field of the document, as `kubectl explain trainingrun --recursive` shows it. A field without a default and not marked
required may be left out. The column `edit` has [the effect of an edit](#the-effect-of-an-edit). Rules are checked by the API server when
the document is applied, and by `halcyon validate`. At the end: [the fields of TrainingRunDefaults](#trainingrundefaults).
"""

_EDITS = """\
## The effect of an edit

Every field of `spec` has one class. The API server, the operator and `kubectl halcyon diff` use the same table. The
[guide](../guides/editing.md) describes how to edit a run.

| class | an edit is |
|---|---|
"""

_STARTS_AGAIN = """\
### A run that has stopped

A run that has stopped (`Stalled`), or whose next attempt is delayed, starts again after an edit of a field that may be related to the
cause. These are all fields except {fields}. `kubectl halcyon restart` starts the run again without an edit.
"""

_STEPS = """\
### When trainer.steps may change

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


_NAMES: dict[EditClass, str] = {"live": "live", "atCheckpoint": "at a checkpoint", "frozen": "frozen"}

_DEFAULTS = """\
## TrainingRunDefaults

The `spec` of a TrainingRunDefaults has these fields of a run's `spec`, with the same meaning, and `checkpoint.rootPrefix`. Each may be
left out and then has no value; a run takes the value of the next less specific defaults, or at last the built-in default above.
[The guide](../guides/editing.md#defaults) describes how and when runs take the values.

| field | from two documents |
|---|---|
"""


def render() -> str:
    """The text of the reference."""
    schema = _schema(custom_resource_definition())
    parts = [_HEADER]
    for section in ("spec", "status"):
        parts.append(f"## {section}\n")
        parts.extend(_tables(section, schema["properties"][section]))
    rules = _rules(schema)
    parts += ["## Rules\n", "\n".join(rules) + "\n", _edits(), _defaults(set(rules))]
    return "\n".join(parts).rstrip() + "\n"


def _edits() -> str:
    parts = [_EDITS + "".join(f"| {_NAMES[edit]} | {meaning} |\n" for edit, meaning in MEANINGS.items())]
    parts.append(
        "| field, and all below it | class | why |\n|---|---|---|\n"
        + "".join(f"| `{row.path}` | {_NAMES[row.edit]} | {row.why} |\n" for row in EDIT_RULES)
    )
    parts.append(_STARTS_AGAIN.format(fields=", ".join(f"`{row.path}`" for row in EDIT_RULES if not row.starts_again)))
    parts.append(_STEPS)
    return "\n".join(parts)


def _defaults(known: set[str]) -> str:
    """The section of TrainingRunDefaults.

    Args:
        known: Rules of a run, which are not repeated.
    """
    schema = _schema(defaults_definition())
    prefix = schema["properties"]["spec"]["properties"]["checkpoint"]["properties"]["rootPrefix"]
    own = [rule for rule in _rules(schema) if rule not in known]
    return (
        _DEFAULTS
        + "".join(f"| `{unit.path}` | {_merge(unit)} |\n" for unit in UNITS)
        + f"\n`checkpoint.rootPrefix`: {prefix['description']}\n\n"
        + "".join(f"{rule}\n" for rule in own)
    )


def _merge(unit: Unit) -> str:
    if unit.merged:
        return "merged key by key"
    if unit.named:
        return "merged by name, each entry whole"
    return "the more specific one, whole" + (", not below a document that sets the root" if unit.store else "")


def _schema(definition: Schema) -> Schema:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _tables(path: str, schema: Schema) -> Iterator[str]:
    yield f"### `{path}`\n\n{schema.get('description', '')}\n"
    required = set(schema.get("required", ()))
    edited = path.startswith("spec")
    rows: list[str] = []
    nested: list[tuple[str, Schema]] = []
    for name, field in schema.get("properties", {}).items():
        rows.append(
            f"| `{name}` | {_type(field)} | {_default(field, name in required)} | "
            + (f"{_edit(f'{path}.{name}')} | " if edited else "")
            + f"{_cell(field.get('description', ''))} |"
        )
        inner = field.get("items", field)
        if inner.get("properties"):
            nested.append((f"{path}.{name}{'[]' if 'items' in field else ''}", inner))
    if rows:
        head = ("field", "type", "default", *(("edit",) if edited else ()), "meaning")
        yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n" + "\n".join(rows) + "\n"
    for child_path, child in nested:
        yield from _tables(child_path, child)


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


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _rules(schema: Schema) -> tuple[str, ...]:
    rules = (f"- {rule.get('message') or rule['messageExpression']}" for rule in _all_rules(schema))
    return tuple(dict.fromkeys(rules))


def _all_rules(schema: Schema) -> Iterator[dict[str, str]]:
    yield from (rule for rule in schema.get("x-kubernetes-validations", ()) if "message" in rule)
    for child in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else ())):
        yield from _all_rules(child)
