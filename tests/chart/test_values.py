"""The chart's values: all are documented, all are in the schema, and a mistake is rejected with one sentence."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from halcyon_devcluster.errors import DevclusterError
from tests.chart.conftest import CHART, Render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OPEN_BY_KUBERNETES = {"global", "nodeAffinity", "podAffinity", "podAntiAffinity"}
LEAVES_WITH_MEMBERS = {"resources", "labels", "namespaceLabels"}


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in LEAVES_WITH_MEMBERS:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def schemas(node: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield name, node
        for key, value in node.items():
            yield from schemas(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from schemas(value, name)


def test_every_value_is_documented() -> None:
    text = (CHART / "values.yaml").read_text()
    for *_, name in leaves(yaml.safe_load(text)):
        assert re.search(rf"# -- .+\n(?:\s*#.+\n)*\s*{name}:", text), (
            f"values.yaml: {name} has no `# --` comment above it"
        )


def test_every_value_is_in_the_schema() -> None:
    for path in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        node = SCHEMA
        for name in path:
            assert name in node["properties"], f"values.schema.json lacks {'.'.join(path)}"
            node = node["properties"][name]


def test_schema_is_closed() -> None:
    for name, node in schemas(SCHEMA):
        assert name in OPEN_BY_KUBERNETES or "additionalProperties" in node, f"{name} takes anything"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"watchNamespace": ["a"]}, "additional properties 'watchNamespace' not allowed"),
        ({"log": {"levl": "info"}}, "additional properties 'levl' not allowed"),
        ({"log": {"level": "verbose"}}, "/log/level"),
        ({"metrics": {"port": 80}}, "/metrics/port"),
        ({"watchNamespaces": ["Team A"]}, "/watchNamespaces/0"),
        ({"objectStore": {"s3": {"endpoints": ["store:7070"]}}}, "/objectStore/s3/endpoints/0"),
        ({"image": {"repository": "a", "digest": "latest"}}, "/image/digest"),
        ({"trainerPods": {"security": {"tpu": {"runAsUser": "root"}}}}, "/trainerPods/security/tpu"),
        ({"trainerPods": {"security": {"tpu": {"hostPID": True}}}}, "additional properties 'hostPID' not allowed"),
        ({"trainerPods": {"variables": ["xla"]}}, "/trainerPods/variables/0"),
        ({"trainerPods": {"cache": {"hostPath": "/a/../b"}}}, "/trainerPods/cache/hostPath"),
        (
            {"trainerPods": {"cache": {"hostPath": "/a", "claim": "b"}}},
            "trainerPods.cache.claim and trainerPods.cache.hostPath exclude",
        ),
        ({"proxy": {"https": "http://user:word@proxy"}}, "/proxy/https"),
        (
            {"image": {"repository": ""}},
            "Set image.repository to where the image built from images/operator/Dockerfile is pushed",
        ),
    ],
)
def test_mistakes_are_refused(render: Render, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DevclusterError, match=re.escape(sentence)):
        render(**values)
