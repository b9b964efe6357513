"""Every object of the chart is valid by the schema of its kind, strictly: it has no unknown field, and no kind is
skipped.

The schemas are those of the pinned Kubernetes and Prometheus operator, generated from their sources. `helm lint` has no
such schema, and an API server drops a field that it does not know.
"""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.programs import KUBECONFORM, KUBERNETES, PROMETHEUS_OPERATOR
from tests.chart.conftest import Objects, Render, of_kind
from tests.chart.schemas import LOCATION, write_schemas
from tests.gitops.readers import BUILT, binaries, program
from tests.suite.limits import limit

pytestmark = BUILT

ON = {"enabled": True}
EVERYTHING: dict[str, Any] = {
    "watchNodes": True,
    "kueue": ON,
    "replicas": 2,
    "imagePullSecrets": ["pull"],
    "objectStore": {
        "s3": {"credentialsSecret": "store", "region": "us-east-1", "endpoints": ["http://store.team.svc:7070"]}
    },
    "serviceAccount": {"annotations": {"a": "b"}},
    "metrics": {
        "serviceMonitor": ON | {"labels": {"release": "prometheus"}},
        "podMonitor": ON | {"labels": {"release": "prometheus"}},
        "prometheusRule": ON | {"alertLabels": {"team": "ml"}, "runbookBaseUrl": "https://example.org/books/"},
        "dashboards": ON,
    },
    "networkPolicy": ON
    | {"apiServer": {"cidrs": ["10.0.0.1/32"]}, "metadataServer": ON, "trainers": ON | {"namespaces": ["a"]}},
    "limits": ON
    | {
        "default": {"images": []},
        "namespaces": {"a": {"roots": ["gs://a/"], "endpoints": ["aws"], "sources": ["hf://"]}},
    },
    "podDisruptionBudget": ON | {"maxUnavailable": "50%"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "priorityClassName": "system-cluster-critical",
}
"""Values that create every object of the chart, and that change the shape of an object."""
PROFILES = {"namespaces": {"watchNamespaces": ["a", "b"]}, "cluster": {"clusterWide": True}}
OF_OTHERS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    write_schemas(folder, binaries().source(KUBERNETES), binaries().source(PROMETHEUS_OPERATOR))
    return folder


def faults(objects: Objects, schemas: Path) -> list[str]:
    """kubeconform's complaints about objects, and about kinds without a schema."""
    command = [
        program(KUBECONFORM, "kubeconform"),
        "-strict",
        "-output",
        "json",
        "-verbose",
        "-schema-location",
        f"{schemas}/{LOCATION}",
    ]
    text = yaml.safe_dump_all(objects)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=limit(60), check=False)
    found = json.loads(done.stdout)["resources"]
    assert len(found) == len(objects), done.stderr
    return [
        f"{each['kind']} {each['name']}: {each['status']} {each.get('msg', '')}"
        for each in found
        if each["status"] != "statusValid"
    ]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_plain_install_is_valid(render: Render, schemas: Path, profile: dict[str, Any]) -> None:
    assert faults(render(**profile), schemas) == []


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_an_install_with_everything_is_valid(render: Render, schemas: Path, profile: dict[str, Any]) -> None:
    objects = render(**(EVERYTHING | profile))
    kinds = {found["kind"] for found in objects}
    assert (
        OF_OTHERS | {"ValidatingAdmissionPolicy", "NetworkPolicy", "PodDisruptionBudget", "Deployment", "PriorityClass"}
        <= kinds
    )
    assert faults(objects, schemas) == []


MISSPELT: list[tuple[str, tuple[str | int, ...], str]] = [
    ("Deployment", ("spec", "template", "spec", "containers", 0), "imagePullPolice"),
    ("NetworkPolicy", ("spec", "egress", 0), "port"),
    ("ValidatingAdmissionPolicy", ("spec", "validations", 0), "messageExpresion"),
    ("ServiceMonitor", ("spec", "endpoints", 0), "honourLabels"),
    ("PodMonitor", ("spec", "podMetricsEndpoints", 0), "relabeling"),
    ("PrometheusRule", ("spec", "groups", 0, "rules", 0), "expression"),
]


@pytest.mark.parametrize(("kind", "place", "field"), MISSPELT, ids=[kind for kind, *_ in MISSPELT])
def test_a_misspelt_field_is_found(
    render: Render, schemas: Path, kind: str, place: tuple[str | int, ...], field: str
) -> None:
    found = copy.deepcopy(of_kind(render(**(EVERYTHING | PROFILES["cluster"])), kind)[0])
    assert faults([found], schemas) == []
    node: Any = found
    for part in place:
        node = node[part]
    node[field] = "x"
    (fault,) = faults([found], schemas)
    assert field in fault


def test_a_kind_without_a_schema_is_found(schemas: Path) -> None:
    (fault,) = faults([{"apiVersion": "other.example/v1", "kind": "Other", "metadata": {"name": "x"}}], schemas)
    assert "could not find schema for Other" in fault
