"""The threat model's statements about the schema, the code and the chart hold, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

from halcyon_api.generate.crd import custom_resource_definition
from tests.operator.threats import PAGE, REPOSITORY, ROWS, proofs, with_table

SPEC = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
NODE_FIELDS = re.compile(
    "podTemplate|template|hostPath|hostNetwork|hostPID|hostIPC|hostPort|nodeName|privileged|securityContext|runAs.*|capabilities|patch|command|args|env|initContainers|sidecars|runtimeClassName",
    re.IGNORECASE,
)
CHAT_TEMPLATES = re.compile(r"\.data\.sources\[\]\.format\.(chat|preference|prompt)\.template")
"""Texts for the tokenizer. The trainer renders them in a sandbox."""
VARIABLES = ".env"
"""Names from the owner's list; each value is a text or comes from a Secret of the namespace."""


OPEN = re.compile(
    r"\.model\.config|\.data\.sources\[\]\.format\.(chat|preference|prompt)\.templateVariables"
    r"|\.objective\.policy\.environment\.arguments|\.objective\.teacher\.model"
)
"""Arguments of the class of a custom model and of an environment, both of the image, and values of a chat template's
variables: only the trainer reads them. The model of a teacher, which pydantic checks as it does `spec.model`."""


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, name and schema of every field below a schema."""
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", name, child
        yield from fields(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield f"{path}{mark}", "", schema[key]
            yield from fields(schema[key], path + mark)


def test_no_field_of_a_run_reaches_the_node() -> None:
    found = [path for path, name, _ in fields(SPEC) if name and NODE_FIELDS.fullmatch(name)]
    assert [path for path in found if path != VARIABLES and not CHAT_TEMPLATES.fullmatch(path)] == []
    for path, _, schema in fields(SPEC):
        assert ("x-kubernetes-preserve-unknown-fields" in schema) == bool(OPEN.fullmatch(path)), path
        assert "x-kubernetes-embedded-resource" not in schema, path


def test_no_field_of_a_run_names_a_namespace() -> None:
    assert [path for path, name, _ in fields(SPEC) if "namespace" in name.lower()] == []


CODE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
SANDBOX = REPOSITORY / "trainer" / "halcyon" / "evals" / "sandbox" / "execution.py"  # the process of a model's program
SOURCES = [
    path for folder in ("crds", "operator", "trainer", "cli") for path in sorted((REPOSITORY / folder).rglob("*.py"))
]


def test_no_input_can_be_executed_as_code() -> None:
    assert SOURCES
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not CODE & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if (path, called) != (SANDBOX, "exec"):
                    assert called not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"), (
                        f"{path}:{node.lineno}"
                    )
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                for unsafe in ("shell", "allow_pickle"):
                    value = given.get(unsafe)
                    assert value is None or (isinstance(value, ast.Constant) and value.value is False), (
                        f"{path}:{node.lineno}"
                    )


def test_there_is_no_webhook() -> None:
    templates = (REPOSITORY / "charts" / "halcyon" / "templates").rglob("*.yaml")
    assert not [path for path in templates if "WebhookConfiguration" in path.read_text()]


NAMED = sorted({proof for row in ROWS for proof in proofs(row)})


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda part: part.rpartition("/")[2])
def test_the_tests_that_are_named_exist(file: str, test: str) -> None:
    assert f"def {test}(" in (REPOSITORY / file).read_text()


def test_the_page_shows_the_threats_each_with_its_tests() -> None:
    assert all(row["threat"] and row["defence"] and list(proofs(row)) for row in ROWS)
    assert with_table(PAGE.read_text()) == PAGE.read_text(), "run: make generate"
