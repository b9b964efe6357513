"""The published schemas accept what an API server accepts, and report the mistakes that editors and checks can find
without one.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from halcyon_api.base import InvalidRun, OneOf
from halcyon_api.generate import json_schema
from halcyon_api.reading import parse_run
from halcyon_api.training_run import TrainingRun
from tests.examples.documents import patches, training_runs
from tests.gitops.readers import kubeconform
from tests.operator import builders

WHOLE = Draft7Validator(json_schema.document_schema())
PATCH = Draft7Validator(json_schema.patch_schema())
SOUND = builders.run()


def faults(validator: Draft7Validator, document: dict[str, Any]) -> list[str]:
    return [error.message for error in validator.iter_errors(document)]


@pytest.mark.parametrize("schema", [WHOLE, PATCH], ids=["whole", "patch"])
def test_the_schemas_are_valid_and_have_no_kubernetes_extensions(schema: Draft7Validator) -> None:
    Draft7Validator.check_schema(schema.schema)
    assert "x-kubernetes" not in json.dumps(schema.schema)


@pytest.mark.parametrize(("where", "document"), training_runs().items(), ids=list(training_runs()))
def test_every_documented_run_is_valid(where: str, document: dict[str, Any]) -> None:
    assert faults(WHOLE, document) == []
    assert faults(PATCH, document) == []


@pytest.mark.parametrize(("where", "document"), patches().items(), ids=list(patches()))
def test_every_documented_patch_is_valid(where: str, document: dict[str, Any]) -> None:
    assert faults(PATCH, document) == []
    assert faults(WHOLE, document), "a patch must not be a whole document"


BAD: dict[str, dict[str, Any]] = {
    "a misspelt field": {"trainer.batchsize": 8},
    "a wrong type": {"trainer.steps": "many"},
    "a missing section": {"data": ...},
    "two kinds": {"tokenizer": {"byte": {}, "bpe": {"vocabSize": 512}}},
    "no kind": {"tokenizer": {}},
    "no family": {"model.family": ...},
    "an unknown accelerator": {"accelerator.type": "v99"},
    "below an exclusive bound": {"optimizer": {"learningRate": 0, "adamw": {}}},
    "a root with an unknown scheme": {"checkpoint.root": "ftp://nowhere"},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_invalid_documents_are_reported_by_the_schema_and_the_parser(change: dict[str, Any]) -> None:
    document = {**SOUND, "spec": builders.changed(SOUND["spec"], change)}
    assert faults(WHOLE, SOUND) == []
    assert faults(WHOLE, document)
    with pytest.raises(InvalidRun, match=r"\w+: "):
        parse_run(document)


def test_the_real_validator_reads_the_committed_files() -> None:
    good = kubeconform("-summary", stdin=yaml.safe_dump(SOUND))
    assert (good.returncode, "Valid: 1" in good.stdout) == (0, True), good.stdout + good.stderr
    bad = kubeconform(
        stdin=yaml.safe_dump({**SOUND, "spec": builders.changed(SOUND["spec"], {"trainer.batchsize": 8})})
    )
    assert bad.returncode == 1
    assert "batchsize" in bad.stdout


def test_every_choice_is_in_the_schema() -> None:
    def choices(node: Any) -> int:
        if isinstance(node, dict):
            return ("oneOf" in node) + sum(choices(value) for value in node.values())
        return sum(choices(value) for value in node) if isinstance(node, list) else 0

    def models(node: Any) -> int:
        if isinstance(node, dict):
            rules = node.get("x-kubernetes-validations", ())
            return sum(rule["message"].startswith("set exactly one of") for rule in rules if "message" in rule) + sum(
                models(value) for value in node.values()
            )
        return sum(models(value) for value in node) if isinstance(node, list) else 0

    crd = json_schema.custom_resource_definition()
    assert choices(WHOLE.schema) == models(crd) > 0
    assert OneOf.__subclasses__()


def test_a_patch_has_no_required_fields_and_can_remove_a_section() -> None:
    head = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "any"}}
    assert faults(PATCH, head) == []
    assert faults(PATCH, {**head, "spec": {"model": {"family": "gpt2", "numKeyValueHeads": None}}}) == []
    assert faults(PATCH, {**head, "spec": {"trainer": {"batchsize": 8}}})
    assert faults(PATCH, {**head, "spec": {"trainer": {"steps": "many"}}})


def test_the_schema_accepts_what_the_types_accept() -> None:
    """With all sections written out that the types fill in."""
    whole = TrainingRun.model_validate(SOUND, by_alias=True).document()
    whole = {**copy.deepcopy(SOUND), "spec": whole["spec"]}
    assert faults(WHOLE, whole) == []
