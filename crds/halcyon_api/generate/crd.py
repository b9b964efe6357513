"""Generates the custom resource definition from the types.

A structural schema allows less than JSON Schema: no ``$ref``, no ``anyOf`` with null, no titles, no
``additionalProperties: false`` next to properties (the API server itself rejects unknown fields), and exclusive bounds
are flags. `structural_schema` converts pydantic's output, adds the CEL rules of each class, and requires a bound for
every string, list and map, because the API server estimates the cost of its rules from those bounds.
"""

import ast
import copy
import functools
import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from halcyon_api import training_run
from halcyon_api.base import MAX_NAME_LENGTH, ApiModel, CelRule, OneOf
from halcyon_api.defaults import resource as defaults
from halcyon_api.defaults.units import ROOT, UNITS
from halcyon_api.edits.classes import frozen_rules
from halcyon_api.generate.families import TAG, one_schema
from halcyon_api.sentences import models_in
from halcyon_api.spec.model import FAMILIES

_FOLDER = Path(__file__).resolve().parents[2]
CRD_FILE = _FOLDER / f"{training_run.GROUP}_{training_run.PLURAL}.yaml"
DEFAULTS_CRD_FILE = _FOLDER / f"{training_run.GROUP}_{defaults.PLURAL}.yaml"
HEADER = "# Generated from crds/halcyon_api by `make generate`. Do not edit.\n"

UNSEEN = -1
"""`status.observedGeneration` of a run that no operator has reconciled yet."""

_DROPPED = ("title", "$defs", "discriminator", "examples")
_ALIKE = 6
"""Fewest members of a section that becomes a map."""
_SPARED = 8
"""Fewest characters that a reference to another description spares."""
_UNBOUNDED_FORMATS = ("date-time",)
_EXPRESSIONS = ("rule", "messageExpression")
_SPACED_SIGN = re.compile(r"('[^']*')| *(\|\||&&|[=!<>]=|[-+*/%<>?:,]) *")

Schema = dict[str, Any]


def custom_resource_definition() -> Schema:
    """The CRD of TrainingRun as a plain document."""
    schema = _object_schema(training_run.TrainingRun)
    properties = schema["properties"]
    # The bound on the name is only for the cost estimate of the rule over it.
    properties["metadata"]["properties"] = {"name": {"type": "string", "maxLength": MAX_NAME_LENGTH}}
    _leave_to_defaults(properties["spec"])
    _describe_alike_once(properties["status"])
    _describe_once(properties["spec"])
    _describe_once(properties["status"])
    # A reader such as kstatus must not take a run without conditions for a successful one. No real generation is -1.
    properties["status"]["default"] = {"observedGeneration": UNSEEN}
    properties["status"]["properties"]["observedGeneration"]["minimum"] = UNSEEN
    more: Schema = {"subresources": {"status": {}}, "additionalPrinterColumns": _PRINTER_COLUMNS}
    names = training_run.KIND, training_run.PLURAL, training_run.SINGULAR, training_run.SHORT_NAME
    return _definition(*names, [training_run.CATEGORY], schema, more)


def defaults_definition() -> Schema:
    """The CRD of TrainingRunDefaults as a plain document."""
    schema = _object_schema(defaults.TrainingRunDefaults)
    more: Schema = {"additionalPrinterColumns": _DEFAULTS_COLUMNS}
    return _definition(defaults.KIND, defaults.PLURAL, defaults.PLURAL, defaults.SHORT_NAME, [], schema, more)


def definitions() -> list[Schema]:
    """All CRDs."""
    return [custom_resource_definition(), defaults_definition()]


def _definition(
    kind: str, plural: str, singular: str, short_name: str, categories: list[str], schema: Schema, more: Schema
) -> Schema:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{training_run.GROUP}"},
        "spec": {
            "group": training_run.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": [short_name],
                **({"categories": categories} if categories else {}),
            },
            "versions": [
                {
                    "name": training_run.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _as_stored(schema)},
                    **more,
                }
            ],
        },
    }


def _as_stored(node: Any) -> Any:
    """A part of a definition in the form in which the API server stores it: whole numbers without a fraction or an
    exponent, and no empty `properties`. A tool that compares both, such as Argo CD, finds no difference for ever.
    """
    if isinstance(node, dict):
        known = cast("Schema", node)
        return {
            # Without the spaces around the signs of expressions: the definition must fit into an annotation.
            key: _SPACED_SIGN.sub(lambda found: found[1] or found[2], value)
            if key in _EXPRESSIONS and isinstance(value, str)
            else _as_stored(value)
            for key, value in known.items()
            if not (key == "properties" and value == {})
        }
    if isinstance(node, list):
        return [_as_stored(one) for one in cast("list[Any]", node)]
    return int(node) if isinstance(node, float) and node.is_integer() else node


def _object_schema(model: type[BaseModel]) -> Schema:
    """The schema of a whole object. The API server has its own schema of metadata."""
    schema = structural_schema(model)
    properties = schema["properties"]
    for name in ("apiVersion", "kind"):
        properties[name] = {"type": "string", "description": properties[name]["description"]}
    properties["metadata"] = {"type": "object"}
    schema["required"] = ["spec"]
    return schema


def _leave_to_defaults(spec: Schema) -> None:
    """Remove the schema defaults of all fields that a run may take from its TrainingRunDefaults.

    Otherwise the API server would fill them in, and the stored object would look as if the user had set them. The
    sections keep an empty default, because rules rely on their existence. The description has the built-in default
    instead.
    """
    for unit in UNITS:
        *sections, name = unit.path.split(".")
        node = spec
        for depth, section in enumerate(sections):
            node = node["properties"][section]
            _forget(node.get("default"), [*sections[depth + 1 :], name])
        field = node["properties"][name]
        built_in = field.pop("default", None)
        if built_in is not None and "Default:" not in field["description"]:
            text = "those of its members" if isinstance(built_in, dict) else f"`{built_in}`"
            default_text = "none" if built_in in ([], {}) else text
            field["description"] += f" Default: TrainingRunDefaults, else {default_text}."
    section, name = ROOT.split(".")
    checkpoint = spec["properties"][section]
    checkpoint["required"].remove(name)
    if not checkpoint["required"]:
        del checkpoint["required"]
    checkpoint["default"] = {}
    spec["required"].remove(section)


def _describe_alike_once(status: Schema) -> None:
    """Make a map of a section with many members that differ only in their descriptions, such as the seconds by cause,
    everywhere but where it occurs first: the definition must fit into an annotation.
    """
    first: dict[tuple[str, ...], str] = {}

    def visit(node: Schema, path: str) -> None:
        for name, child in node.get("properties", {}).items():
            place, below = f"{path}.{name}".removeprefix("."), child.get("items", child)
            members: Schema = below.get("properties", {})
            kinds = [{key: member[key] for key in member if key != "description"} for member in members.values()]
            if len(kinds) < _ALIKE or any(kind != kinds[0] for kind in kinds):
                visit(below, place)
            elif (found := first.setdefault(tuple(members), place)) != place:
                child["description"] += f" By name, as in {found}."
                below |= {"additionalProperties": kinds[0], "maxProperties": 2 * len(kinds)}
                del below["properties"]

    visit(status, "")


def _describe_once(part: Schema) -> None:
    """Let a field with a long description refer to an earlier one of the same name and description."""
    first: dict[tuple[str, str], str] = {}

    def visit(node: Schema, section: str) -> None:
        for name, field in node.get("properties", {}).items():
            place = first.setdefault((name, field["description"]), section)
            if place != section and len(refer := f"As in {place}.") + _SPARED < len(field["description"]):
                field["description"] = refer
            visit(field.get("items", field), f"{section}.{name}".removeprefix("."))

    visit(part, "")


def _forget(default: Any, path: list[str]) -> None:
    """Remove a field from the default of a section that contains it."""
    for part in path[:-1]:
        default = cast("Schema", default).get(part) if isinstance(default, dict) else None
    if isinstance(default, dict):
        cast("Schema", default).pop(path[-1], None)


def _columns(rows: Mapping[str, tuple[str, str]], **more: int) -> list[Schema]:
    """Columns of `kubectl get`, from their types and paths by their titles. One of priority 1 is shown with `-o wide`
    only.
    """
    return [{"name": name, "type": kind, "jsonPath": path, **more} for name, (kind, path) in rows.items()]


_PRINTER_COLUMNS = _columns(
    {
        "Phase": ("string", ".status.phase"),
        "Step": ("integer", ".status.progress.step"),
        "Of": ("integer", ".status.progress.steps"),
        "Loss": ("string", ".status.progress.loss"),
        "Tokens/s": ("string", ".status.progress.tokensPerSecond"),
        "Saved": ("integer", ".status.checkpoint.step"),
        "Restarts": ("integer", ".status.restarts.total"),
        "Age": ("date", ".metadata.creationTimestamp"),
    }
) + _columns(
    {
        "Attempt": ("integer", ".status.attempt"),
        "Slices": ("integer", ".status.topology.slices"),
        "Goodput": ("string", ".status.goodput.ratio"),
        "Held out": ("string", ".status.progress.evaluationLoss"),
        "Bits/byte": ("string", ".status.progress.bitsPerByte"),
        "Fits": ("string", ".status.plan.fits"),
        "Planned memory": ("string", ".status.plan.memory"),
        "Planned tokens/s": ("string", ".status.plan.tokensPerSecond"),
        "Chip-hours": ("string", ".status.plan.chipHours"),
        "Cost": ("string", ".status.plan.cost"),
        "Reason": ("string", '.status.conditions[?(@.type=="Ready")].reason'),
        "Message": ("string", '.status.conditions[?(@.type=="Ready")].message'),
    },
    priority=1,
)
_DEFAULTS_COLUMNS = _columns(
    {
        "Checkpoints": ("string", ".spec.checkpoint.rootPrefix"),
        "Image": ("string", ".spec.image"),
        "Account": ("string", ".spec.scheduling.serviceAccountName"),
        "Age": ("date", ".metadata.creationTimestamp"),
    }
)


def structural_schema(model: type[BaseModel]) -> Schema:
    """A model's schema as a structural schema of the API server.

    Raises:
        ValueError: A string, list or map has no bound, or a type has no structural form; the message gives the path.
    """
    generated = _json_schema(model)
    return _rewrite({**generated, "$ref": model.__name__}, _Types(generated.get("$defs", {}), reachable(model)), "")


@functools.cache
def _json_schema(model: type[BaseModel]) -> Schema:
    """pydantic's output. The callers share it, because it is slow; `_rewrite` copies what it changes."""
    return model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Described)


class _Described(GenerateJsonSchema):
    """Takes the text below a field as its description, where the field has no other.

    Pydantic can do so too (``use_attribute_docstrings``), but in each process that imports the classes, and reading
    their source takes longer than all else of the import.
    """

    def model_schema(self, schema: Any) -> Schema:
        """See `GenerateJsonSchema`."""
        found = super().model_schema(schema)
        texts = _texts(schema["cls"])
        for name, field in schema["cls"].model_fields.items():
            if name in texts:
                found["properties"][str(field.validation_alias or name)].setdefault("description", texts[name])
        return found


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field of a class, on one line."""
    found: dict[str, str] = {}
    source = getattr(model, "fields_of", None) or model
    for base in (*reversed(model.__mro__[1:]), *reversed(source.__mro__)):
        if not issubclass(base, ApiModel):
            continue
        with suppress(OSError):  # a class of create_model has no source
            definition = cast("ast.ClassDef", ast.parse(dedent(inspect.getsource(base))).body[0])
            for field, below in pairwise(definition.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                        found[name] = " ".join(text.split())
                    case _:
                        pass
    return found


@functools.cache
def _rules_of_edits() -> dict[type[ApiModel], tuple[CelRule, ...]]:
    """The rules that compare a run with the run before an edit, by the class that has them.

    Only the API server evaluates them.
    """
    spec = training_run.TrainingRunSpec
    return {spec: frozen_rules(spec)}


@dataclass(frozen=True)
class _Types:
    """The schemas and their classes, by name."""

    schemas: Schema
    classes: dict[str, type[BaseModel]]

    def rules(self, name: str) -> list[CelRule]:
        """The CEL rules of a class, the "exactly one" rule first."""
        model = self.classes[name]
        choice = [model.one_of_rule()] if issubclass(model, OneOf) else []
        if not issubclass(model, ApiModel):
            return choice
        return [
            *choice,
            *_rules_of_edits().get(model, ()),
            *model.cel_rules,
            *(rule.for_api_server() for rule in model.rules),
        ]

    def section_defaults(self, name: str) -> dict[str, Schema]:
        """Defaults of optional sections.

        They are complete: the API server validates a default before it fills in the defaults inside.
        """
        found: dict[str, Schema] = {}
        for field_name, field in self.classes[name].model_fields.items():
            value = field.get_default(call_default_factory=True) if field.default_factory else None
            if isinstance(value, ApiModel) and (document := value.document()):
                found[field.alias or field_name] = document
        return found


def reachable(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """A class and, recursively, the classes of its fields, by name."""
    found: dict[str, type[BaseModel]] = {}
    pending = [model]
    while pending:
        current = pending.pop()
        if current.__name__ not in found:
            found[current.__name__] = current
            pending.extend(child for field in current.model_fields.values() for child in models_in(field.annotation))
    return found


def _rewrite(node: Schema, types: _Types, path: str) -> Schema:
    node = _without_null(node)
    if "discriminator" in node:
        return _one_object(node, types, path)
    defaults: dict[str, Schema] = {}
    if reference := node.pop("$ref", None):
        name = str(reference).removeprefix("#/$defs/")
        node = {**copy.deepcopy(types.schemas.get(name, {})), **node}
        defaults = {} if path.startswith(".status") else types.section_defaults(name)
        if rules := types.rules(name):
            node["x-kubernetes-validations"] = rules
    node = _int_or_word(node)
    if "anyOf" in node or "oneOf" in node or "allOf" in node:
        raise ValueError(f"{path}: a structural schema has no unions")
    for key in _DROPPED:
        node.pop(key, None)
    if isinstance(node.get("additionalProperties"), dict):  # the values of a map
        node["additionalProperties"] = _rewrite(node["additionalProperties"], types, f"{path}{{}}")
    else:
        node.pop("additionalProperties", None)
    _flag_exclusive_bounds(node)
    if path.startswith(".status"):
        node.pop("default", None)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if "properties" in node:
        node["properties"] = {
            name: _rewrite(child, types, f"{path}.{name}") for name, child in node["properties"].items()
        }
        for name, default in defaults.items():
            node["properties"][name]["default"] = default
    if "items" in node:
        node["items"] = _rewrite(node["items"], types, f"{path}[]")
    _check_bounds(node, path)
    return node


def _one_object(node: Schema, types: _Types, path: str) -> Schema:
    """One object in the place of a choice by a tag: the families of models."""
    members = [_rewrite(member, types, path) for member in node["oneOf"]]
    named = {member["properties"][TAG]["enum"][0]: member for member in members}
    return one_schema(named, list(FAMILIES)) | {"description": node["description"]}


def _without_null(node: Schema) -> Schema:
    """``anyOf: [X, null]`` becomes an optional X; a default of null becomes no default."""
    node = dict(node)
    if "anyOf" in node:
        choices = [choice for choice in node.pop("anyOf") if choice != {"type": "null"}]
        if len(choices) == 1:
            node = {**choices[0], **node}
        else:
            node["anyOf"] = choices
    if node.get("default", ...) is None:
        del node["default"]
    return node


def _int_or_word(node: Schema) -> Schema:
    """``anyOf: [integer, constant text]`` becomes a field of both types, where bounds are for numbers and the pattern
    is for text.
    """
    choices: list[Schema] = node.get("anyOf", [])
    if len(choices) != 2 or choices[0].get("type") != "integer" or "const" not in choices[1]:
        return node
    number, word = choices
    bounds = {key: value for key, value in number.items() if key in ("minimum", "maximum")}
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {"x-kubernetes-int-or-string": True, **bounds, "pattern": f"^{word['const']}$", **rest}


def _flag_exclusive_bounds(node: Schema) -> None:
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in node:
            node[bound] = node[exclusive]
            node[exclusive] = True


def _check_bounds(node: Schema, path: str) -> None:
    if path.startswith((".metadata", ".apiVersion", ".kind")):
        return
    kind = node.get("type")
    if kind == "string" and not ({"maxLength", "enum"} & node.keys() or node.get("format") in _UNBOUNDED_FORMATS):
        raise ValueError(f"{path}: a string needs a maximal length")
    if kind == "array" and "maxItems" not in node:
        raise ValueError(f"{path}: a list needs a maximal number of items")
    if kind == "object" and path and "properties" not in node and "maxProperties" not in node:
        if "additionalProperties" in node:
            raise ValueError(f"{path}: a map needs a maximal number of members")
        node["maxProperties"] = 0


def render(definition: Schema | None = None) -> str:
    """A committed file's text. Default: that of TrainingRun."""
    return HEADER + yaml.safe_dump(
        definition or custom_resource_definition(), sort_keys=False, width=140, allow_unicode=True
    )
