"""Every document that is shown to a reader is valid, and each example file starts with an explanation."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.defaults.files import with_values
from halcyon_api.defaults.resource import parse_defaults
from halcyon_api.model_file import with_model
from halcyon_api.reading import parse_run
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.spec.objective import ObjectiveSpec
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.scheduling import SchedulingSpec
from halcyon_api.validation import find_problems
from tests.examples.documents import REPOSITORY, shown_documents, taken, training_runs

EXAMPLES = REPOSITORY / "examples"


@pytest.mark.parametrize(("where", "document"), training_runs().items(), ids=list(training_runs()))
def test_every_documented_run_is_valid(where: str, document: dict[str, Any]) -> None:
    run = parse_run(with_values(document, taken(where)))
    assert not find_problems(run.spec)


def test_all_documented_defaults_are_valid() -> None:
    found = [
        document
        for _, document in shown_documents()
        if isinstance(document, dict) and document.get("kind") == "TrainingRunDefaults"
    ]
    assert len(found) >= 2
    for document in found:
        parse_defaults(document)


ACCELERATOR = re.compile(r"^\| `(\{type: .*?\})` \|", re.MULTILINE)


def test_fragments_about_hardware_are_valid() -> None:
    fragments = [
        fragment for _, fragment in shown_documents() if isinstance(fragment, dict) and "accelerator" in fragment
    ]
    in_tables = [
        yaml.safe_load(text)
        for path in REPOSITORY.glob("docs/**/*.md")
        for text in ACCELERATOR.findall(path.read_text())
    ]
    assert fragments
    assert in_tables
    for accelerator in (*(fragment["accelerator"] for fragment in fragments), *in_tables):
        AcceleratorSpec.model_validate(accelerator, by_alias=True, by_name=False)
    for fragment in fragments:
        SchedulingSpec.model_validate(fragment.get("scheduling", {}), by_alias=True, by_name=False)


def test_fragments_about_scheduling_are_valid() -> None:
    shown = [
        found.get("spec", found)
        for _, found in shown_documents()
        if isinstance(found, dict) and "apiVersion" not in found
    ]
    fragments = [found["scheduling"] for found in shown if "scheduling" in found]
    assert any("topology" in fragment.get("queue", {}) for fragment in fragments)
    for fragment in fragments:
        SchedulingSpec.model_validate(fragment, by_alias=True, by_name=False)


def test_fragments_about_optimizers_are_valid() -> None:
    ours = [found for where, found in shown_documents() if isinstance(found, dict) and "from-levanter.md" not in where]
    fragments = [found["optimizer"] for found in ours if "optimizer" in found]
    assert fragments
    for fragment in fragments:
        OptimizerSpec.model_validate(fragment, by_alias=True, by_name=False)


def test_fragments_about_objectives_are_valid() -> None:
    fragments = [
        found["objective"] for _, found in shown_documents() if isinstance(found, dict) and "objective" in found
    ]
    assert len(fragments) >= 2
    for fragment in fragments:
        document = with_model({"spec": {"objective": fragment}}, REPOSITORY, lambda config, folder: {"family": "llama"})
        ObjectiveSpec.model_validate(document["spec"]["objective"], by_alias=True, by_name=False)


def test_fragments_of_almost_a_whole_spec_are_valid() -> None:
    around = {"accelerator": {"type": "cpu"}, "checkpoint": {"root": "gs://bucket/run"}}
    parts = {"model", "data", "trainer"}
    ours = [found for where, found in shown_documents() if isinstance(found, dict) and "from-levanter.md" not in where]
    fragments = [found for found in ours if parts <= found.keys() and "configFile" not in found["model"]]
    assert any("vision" in fragment["model"] for fragment in fragments)
    for fragment in fragments:
        document = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "shown"}}
        parse_run(document | {"spec": around | fragment})


def test_the_examples_exist() -> None:
    found = {where.split("#")[0] for where in training_runs()}
    assert {f"examples/{name}.yaml" for name in ("local-llama", "stdlib-llama", "gpt2")} <= found


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("**/*.yaml")), ids=lambda path: path.name)
def test_every_example_file_begins_with_a_comment(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_runs_have_roots_of_their_own() -> None:
    roots = [
        with_values(document, taken(where))["spec"]["checkpoint"]["root"] for where, document in training_runs().items()
    ]
    names = [
        document["metadata"]["name"] for where, document in training_runs().items() if where.startswith("examples/")
    ]
    assert len(set(names)) == len(names)
    assert all(roots)


def objects(kind: str) -> list[dict[str, Any]]:
    files = sorted((EXAMPLES / "object-store").glob("*.yaml"))
    return [found for path in files for found in yaml.safe_load_all(path.read_text()) if found["kind"] == kind]


def test_the_store_is_the_one_that_the_example_uses() -> None:
    example = parse_run(training_runs()["examples/stdlib-llama.yaml#0"])
    (service,) = objects("Service")
    where = service["metadata"]
    port = service["spec"]["ports"][0]["port"]
    assert example.spec.checkpoint.endpoint == f"http://{where['name']}.{where['namespace']}.svc.cluster.local:{port}"
    assert example.metadata.namespace == where["namespace"]
    secrets = {secret["metadata"]["namespace"]: secret for secret in objects("Secret")}
    assert example.spec.checkpoint.credentials_secret is not None
    assert secrets[where["namespace"]]["metadata"]["name"] == example.spec.checkpoint.credentials_secret.name
    (deployment,) = objects("Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    bucket = example.spec.checkpoint.root.removeprefix("s3://").split("/")[0]
    assert f"/data/{bucket}" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_operator_and_pods_have_the_same_credentials() -> None:
    first, second = objects("Secret")
    assert first["stringData"] == second["stringData"]
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} == set(first["stringData"])


def test_no_document_is_empty() -> None:
    assert all(document for _, document in shown_documents())
