"""The JSON schemas of TrainingRun and TrainingRunDefaults, generated from the CRDs, for editors and for checks without
an API server.

A JSON schema cannot express the CEL rules of the API server, but it finds unknown fields, wrong types and violations of
"exactly one of". Another schema is for patches of a run, such as Kustomize overlays: it has the same fields, and none
is required.
"""

import json
import re
from typing import Any, cast

from halcyon_api import training_run
from halcyon_api.defaults import resource as defaults
from halcyon_api.generate.crd import custom_resource_definition, defaults_definition

Schema = dict[str, Any]

NAME = f"{training_run.SINGULAR}_{training_run.VERSION}"
DEFAULTS_NAME = f"{defaults.PLURAL}_{training_run.VERSION}"
"""File names by which validators find schemas: the kind in lower case, and the version."""
DIALECT = "http://json-schema.org/draft-07/schema#"

_ONE_OF = re.compile(r"\[((?:has\(self\.\w+\),?)+)\]\.exists_one\(one,one\)")
_MEMBER = re.compile(r"has\(self\.(\w+)\)")
_METADATA: Schema = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}


def document_schema() -> Schema:
    """The schema of a whole run. The status is not described, because the operator writes it."""
    schema, properties = _whole(custom_resource_definition())
    schema["properties"] |= {"status": {"type": "object", "description": properties["status"]["description"]}}
    return schema


def defaults_schema() -> Schema:
    """The schema of whole defaults."""
    return _whole(defaults_definition())[0]


def _whole(definition: Schema) -> tuple[Schema, Schema]:
    (version,) = definition["spec"]["versions"]
    crd = version["schema"]["openAPIV3Schema"]
    properties, kind = crd["properties"], definition["spec"]["names"]["kind"]
    schema: Schema = {
        "$schema": DIALECT,
        "title": kind,
        "description": crd["description"],
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": properties["apiVersion"] | {"const": training_run.API_VERSION},
            "kind": properties["kind"] | {"const": kind},
            "metadata": _METADATA | {"description": "Standard object metadata."},
            "spec": plain_schema(properties["spec"]),
        },
        "additionalProperties": False,
    }
    return schema, properties


def patch_schema() -> Schema:
    """The schema of a strategic-merge or merge patch of a document: the same fields, none required, null to remove a
    field.
    """
    schema = cast("Schema", _without_demands(document_schema()))
    return schema | {"title": f"Patch of a {training_run.KIND}"}


def plain_schema(node: Schema) -> Schema:
    """A part of the structural schema as plain JSON Schema: no unknown fields, exclusive bounds as numbers, choices as
    ``oneOf``.
    """
    found = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-") and key != "format"}
    if node.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if found.get(flag) is True:
            found[flag] = found.pop(bound)
    if "properties" in node:
        found["properties"] = {name: plain_schema(child) for name, child in node["properties"].items()}
        found["additionalProperties"] = False
    elif "additionalProperties" in node:
        found["additionalProperties"] = plain_schema(node["additionalProperties"])
    if "items" in node:
        found["items"] = plain_schema(node["items"])
    for rule in node.get("x-kubernetes-validations", ()):
        if choice := _ONE_OF.fullmatch(rule["rule"]):
            found["oneOf"] = [{"required": [member]} for member in _MEMBER.findall(choice[1])]
    return found


def _without_demands(node: Any) -> Any:
    """The schema with nothing required, and null allowed for every member of an object."""
    if not isinstance(node, dict):
        return node
    node = cast("Schema", node)
    found = {key: value for key, value in node.items() if key not in ("required", "oneOf", "default", "$schema")}
    if "properties" in found:
        found["properties"] = {name: _or_null(_without_demands(child)) for name, child in found["properties"].items()}
    for part in ("items", "additionalProperties"):
        found |= {part: _without_demands(found[part])} if part in found else {}
    return {"$schema": node["$schema"]} | found if "$schema" in node else found


def _or_null(node: Schema) -> Schema:
    if "type" not in node:
        return node
    allowed = {"enum": [*node["enum"], None]} if "enum" in node else {}
    types = cast("list[str]", node["type"] if isinstance(node["type"], list) else [node["type"]])
    return node | {"type": [*types, "null"]} | allowed


def render(schema: Schema) -> str:
    """The file's text."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
