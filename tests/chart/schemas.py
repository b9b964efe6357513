"""Schemas of all objects of the chart, in the layout of kubeconform, from the sources of Kubernetes and of the
Prometheus operator.

Both are Go modules in the pinned versions, so they need no download that the cluster's own programs do not need.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from halcyon_api.generate.json_schema import plain_schema

Schema = dict[str, Any]

LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""The file of a kind, as kubeconform names it."""
_KINDS = "x-kubernetes-group-version-kind"
_EITHER: dict[str, Schema] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["number", "string"]},
}
"""The published types are strings, but the API server also accepts numbers."""


def write_schemas(folder: Path, kubernetes: Path, prometheus_operator: Path) -> None:
    """Write the schemas of Kubernetes' own kinds and of three kinds of the Prometheus operator. They are closed: an
    unknown field is an error.

    Args:
        folder: The destination.
        kubernetes: The source of Kubernetes.
        prometheus_operator: The source of the Prometheus operator.
    """
    swagger = json.loads((kubernetes / "api" / "openapi-spec" / "swagger.json").read_text())
    definitions = {name: _EITHER.get(name) or _closed(schema) for name, schema in swagger["definitions"].items()}
    for name, schema in swagger["definitions"].items():
        for kind in schema.get(_KINDS, ()):
            content = {"$ref": f"#/definitions/{name}", "definitions": _needed(name, definitions)}
            _path(folder, kind["group"], kind["version"], kind["kind"]).write_text(json.dumps(content))
    for plural in ("servicemonitors", "podmonitors", "prometheusrules"):
        path = prometheus_operator / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{plural}.yaml"
        spec = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            schema = plain_schema(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            _path(folder, spec["group"], version["name"], spec["names"]["kind"]).write_text(json.dumps(schema))


def _path(folder: Path, group: str, version: str, kind: str) -> Path:
    return folder / f"{'-'.join(part.lower() for part in (kind, group.partition('.')[0], version) if part)}.json"


def _closed(schema: Schema) -> Schema:
    return schema if "properties" not in schema else schema | {"additionalProperties": False}


def _needed(name: str, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """A definition and all definitions that it refers to."""
    found: dict[str, Schema] = {}
    waiting = [name]
    while waiting:
        if (next_name := waiting.pop()) not in found:
            found[next_name] = definitions[next_name]
            waiting.extend(_references(definitions[next_name]))
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
