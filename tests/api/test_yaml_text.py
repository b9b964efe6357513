"""Halcyon reads a YAML document as kubectl does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.base import InvalidRun
from halcyon_api.reading import load_run
from halcyon_api.yaml_text import InvalidYaml, dump, read_document, read_documents
from halcyon_devcluster.programs import KUBERNETES
from tests.api.documents import document
from tests.gitops.readers import BUILT, program
from tests.suite.limits import limit

READ: dict[str, Any] = {
    "3e-4": 3e-4,
    "3E4": 30_000,
    "+.5e-3": 5e-4,
    ".5": 0.5,
    "-.5": -0.5,
    "5.": 5,
    "1.0": 1,
    "-0.0": 0,
    "1e21": 1e21,
    "1e400": "1e400",
    "1e-400": 0,
    "1_000": 1000,
    "1_": 1,
    "_1": "_1",
    ".5_0": 0.5,
    "0x10": 16,
    "0X1f": 31,
    "0x": "0x",
    "0b11": 3,
    "0b2": "0b2",
    "0o17": 15,
    "017": 15,
    "08": 8,
    "08.5": 8.5,
    "+12": 12,
    "9223372036854775807": 9223372036854775807,
    "9223372036854775808": 9223372036854775808.0,
    "123456789012345678901234567890": 1.2345678901234568e29,
    "on": True,
    "OFF": False,
    "oN": "oN",
    "y": True,
    "N": False,
    "yes": True,
    "tRue": "tRue",
    "~": None,
    "Null": None,
    "none": "none",
    "": None,
    "2001-01-01": "2001-01-01",
    "2001-12-14T21:59:43Z": "2001-12-14T21:59:43Z",
    "1:30": "1:30",
    "inf": "inf",
    "=": "=",
    "'3e-4'": "3e-4",
    '"on"': "on",
    "!!str 3": "3",
    '!!int "3"': 3,
    "!!float 1": 1,
    "!!binary aGVsbG8=": "hello",
    "!other 3": "3",
    "{1: a, on: b, 1e3: c}": {"1": "a", "true": "b", "1000": "c"},
    "{a: 5, <<: {a: 1}}": {"a": 1},
    "{<<: [{a: 1}, {a: 2, c: 3}], b: 2}": {"a": 1, "c": 3, "b": 2},
    "{a: &x 3, b: *x}": {"a": 3, "b": 3},
    "[1, 1_000, {a, b: 1}]": [1, 1000, {"a": None, "b": 1}],
}
REFUSED = {
    ".inf": "spec.value: .inf is no number that JSON has; give a finite one, in line 5",
    ".nan": "spec.value: .nan is no number that JSON has; give a finite one, in line 5",
    "!!int 3e-4": "spec.value: '3e-4' is no int, in line 5",
    "{~: a}": "spec.value: the key in line 5 must be a text",
    "{[1]: a}": "spec.value: the key in line 5 must be a text",
    "{<<: 1}": "spec.value: << takes a mapping or a list of mappings, in line 5",
    "*nowhere": "not YAML: found undefined alias, in line 5",
    "a: b": "not YAML: mapping values are not allowed in this context, in line 5",
    "!!binary '*'": "spec.value: !!binary takes a text in base64, in line 5",
}
TWICE = {
    "{a: 1, a: 2}": "spec.value.a: given twice, in line 5; keep one of them",
    '{1: 1, "1": 2}': "spec.value.1: given twice, in line 5; keep one of them",
    "1\n  value: 2": "spec.value: given twice, in lines 5 and 6; keep one of them",
}
"""The one rule that differs: kubectl silently keeps the last value."""


def text_of(value: str) -> str:
    return f"apiVersion: halcyon.dev/v1alpha1\nkind: TrainingRun\nmetadata: {{name: odd}}\nspec:\n  value: {value}\n"


def as_stored(number: str) -> int | float:
    """An integer in a JSON text as the API server stores it: beyond 64 bits as a float."""
    return int(number) if abs(int(number)) < 1 << 63 else float(number)


def same(first: Any, second: Any) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


@pytest.mark.parametrize(("value", "read"), READ.items(), ids=list(READ))
def test_unusual_values_are_read_as_kubectl_reads_them(value: str, read: Any) -> None:
    assert same(read_document(text_of(value))["spec"]["value"], read)


@pytest.mark.parametrize(("value", "sentence"), {**REFUSED, **TWICE}.items(), ids=[*REFUSED, *TWICE])
def test_invalid_yaml_is_rejected_in_one_sentence(value: str, sentence: str) -> None:
    with pytest.raises(InvalidYaml) as refused:
        read_document(text_of(value))
    assert str(refused.value) == sentence


@pytest.mark.parametrize("value", [*READ, *(pytest.param(value, marks=pytest.mark.variant) for value in REFUSED)])
@pytest.mark.slow
def test_kubectl_reads_the_same(kubectl: Path, value: str) -> None:
    asked = subprocess.run(
        [kubectl, "annotate", "--local", "--filename=-", "--output=json", "halcyon.dev/test=x"],
        input=text_of(value),
        capture_output=True,
        text=True,
        timeout=limit(60),
        check=False,
    )
    if value in REFUSED:
        assert asked.returncode != 0
        return
    assert asked.returncode == 0, asked.stderr
    theirs, ours = (
        json.loads(asked.stdout, parse_int=as_stored)["spec"]["value"],
        read_document(text_of(value))["spec"]["value"],
    )
    assert theirs == ours
    assert isinstance(theirs, bool) == isinstance(ours, bool)


@pytest.fixture(scope="module")
def kubectl() -> Path:
    return program(KUBERNETES, "kubectl")


for mark in BUILT:
    test_kubectl_reads_the_same = mark(test_kubectl_reads_the_same)


@pytest.mark.parametrize(
    "value",
    ["3e-4", "y", "1e3", "0o17", "08", "2001-01-01", "1:30", "+.5", "null", "a: b", "é", "=", "<<", "line\nline", ""],
)
def test_dumped_values_are_read_back_by_both_parsers(value: str) -> None:
    written = dump({"text": value, "list": [1, 0.25, 3e-5, True, None, value]})
    assert (
        read_document(written) == yaml.safe_load(written) == {"text": value, "list": [1, 0.25, 3e-5, True, None, value]}
    )


def test_json_is_read_as_json() -> None:
    assert read_document('{"a": "x\\/y", "b": [1.0, 2e3, 1e30]}') == {"a": "x/y", "b": [1, 2000, 1e30]}
    with pytest.raises(InvalidYaml, match="a: given twice"):
        read_document('{"a": 1, "a": 2}')
    with pytest.raises(InvalidYaml, match="NaN is no number"):
        read_document('{"a": NaN}')


def test_empty_documents_do_not_count() -> None:
    assert read_documents("---\n---\na: 1\n---\n") == [{"a": 1}]
    assert read_documents("# nothing\n") == []


@pytest.mark.parametrize(
    "text",
    ["[" * 5000 + "]" * 5000, "a: " + "{a: " * 5000 + "1" + "}" * 5000, "&a [*a]", '{"a":' * 5000 + "1" + "}" * 5000],
    ids=["lists", "mappings", "itself", "json"],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(InvalidYaml, match="nested deeper"):
        read_document(text)


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InvalidYaml, match="more than"):
        read_document("\n".join(lines))


def test_a_run_is_read_by_these_rules(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    whole = yaml.safe_dump(document(spec__optimizer={"learningRate": 0.5, "adamw": {}}, spec__trainer__evaluation=None))
    path.write_text(whole.replace("learningRate: 0.5", "learningRate: 3e-4").replace("steps: 10", "steps: 1e1"))
    run = load_run(path)
    assert run.spec.optimizer.learning_rate == 3e-4
    assert run.spec.trainer.steps == 10
    assert run.spec.trainer.evaluation.every_steps == 0


def test_a_run_with_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document()) + "kind: TrainingRun\n")
    with pytest.raises(InvalidRun, match=r"kind: given twice, in lines 2 and \d+; keep one of them"):
        load_run(path)


def test_bytes_that_are_no_utf_8_and_a_file_without_a_document(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InvalidRun, match="byte 9 is not UTF-8; save the file as UTF-8"):
        load_run(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("# later\n")
    with pytest.raises(InvalidRun, match="the file is empty"):
        load_run(tmp_path / "empty.yaml")
