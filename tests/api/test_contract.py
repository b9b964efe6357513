"""The generated files are up to date, names fit their labels, and operator and trainer read each other's documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.base import ApiModel
from halcyon_api.ends import FATAL_CODES, ExitCode
from halcyon_api.environment import FROM_POD, InvalidEnvironment, PodEnvironment, parse_environment
from halcyon_api.generate.__main__ import stale_files
from halcyon_api.generate.crd import custom_resource_definition, definitions, reachable
from halcyon_api.hardware import TABLE
from halcyon_api.reading import parse_run
from halcyon_api.spec.accelerator import MAX_SLICES
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.model import FAMILIES, ModelFileSpec
from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from tests.api.documents import document


def test_generated_files_are_committed() -> None:
    assert stale_files() == [], "run 'make generate'"


def test_only_these_fields_of_a_model_have_no_default() -> None:
    """docs/reference/models.md names those of a run's sections."""
    required = {
        f"{section.__name__}.{field.alias or name}"
        for family in (*FAMILIES.values(), ModelFileSpec)
        for section in reachable(family).values()
        for name, field in section.model_fields.items()
        if field.is_required()
    }
    assert required == {"CustomSpec.class", "RopeScaling.ropeType", "ModelFileSpec.configFile"}


def _nodes(node: Any, path: str = "") -> Any:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from _nodes(node["items"], f"{path}[]")


def test_a_class_that_would_be_built_at_its_first_use_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="Deferred has no validator yet; define the classes of its fields before it"):

        class Deferred(ApiModel, defer_build=True):
            number: int = 0

    with pytest.raises(TypeError, match="Early has no validator yet"):

        class Early(ApiModel):
            later: Later  # noqa: F821


def test_the_schema_is_structural_described_and_bounded() -> None:
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    nodes = dict(_nodes(schema))
    for path, node in nodes.items():
        assert not {"$ref", "anyOf", "oneOf", "allOf", "title", "const"} & node.keys(), path
        assert isinstance(node.get("additionalProperties", {}), dict), path
        assert ("type" in node) is not node.get("x-kubernetes-int-or-string", False), path
        if path and not path.startswith(".metadata") and not path.endswith("[]"):
            section = nodes[path.rpartition(".")[0].removesuffix("[]")].get("description", "")
            assert node.get("description") or section.startswith("See "), (
                f"{path} has no description, nor a section that refers to one"
            )
        assert not isinstance(node.get("exclusiveMinimum"), int) or isinstance(node["exclusiveMinimum"], bool), path
        for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            # The API server cuts the bound to a whole number when it compares it with a value that is written as one,
            # such as 0.
            assert not node.get(flag) or float(node[bound]).is_integer(), (
                f"{path}: an exclusive bound must be a whole number"
            )


@pytest.mark.parametrize("definition", definitions(), ids=lambda definition: definition["metadata"]["name"])
def test_a_definition_fits_into_the_annotation_of_kubectl_apply(definition: dict[str, Any]) -> None:
    """kubectl writes compact JSON and replaces <, > and &, as Go's encoder does.

    The annotations may have 262,144 bytes together.
    """
    text = json.dumps(definition, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, rf"\u{ord(character):04x}")
    assert len(text.encode()) < 225_000


def test_the_longest_names_fit_a_label() -> None:
    run, attempt = "r" * names.MAX_RUN_NAME_LENGTH, names.MAX_ATTEMPT
    hosts = max(max(row.max_hosts, row.max_cubes * 16) for row in TABLE.values())
    pod = names.hostname(run, attempt, MAX_SLICES - 1, hosts - 1) + "-abcde"
    coordinator = names.coordinator_address(run, "uid", attempt, "ns", "cluster.local").partition(".ns.svc")[0]
    assert len(pod) <= 63
    assert len(coordinator) <= 63


def test_subdomains_differ_between_runs_and_attempts() -> None:
    assert len({names.subdomain(uid, attempt) for uid in ("a", "b") for attempt in (1, 2)}) == 4


POD = PodEnvironment(
    run_document="/etc/halcyon/run.yaml",
    run_uid="u",
    namespace="n",
    attempt=3,
    restart=2,
    job_index=1,
    completion_index=1,
    slices=2,
    hosts_per_slice=4,
    devices_per_host=2,
    coordinator="host:1",
    mesh=ResolvedMesh(replica=2, data=1, fsdp=8, tensor=1),
    resume_step=40,
)


def test_the_environment_is_read_as_it_was_written() -> None:
    assert parse_environment(POD.variables()) == POD
    assert set(FROM_POD) <= POD.variables().keys()
    assert POD.process_index == 5
    assert POD.process_count == 8


def test_outside_a_pod_there_is_no_environment() -> None:
    assert parse_environment({"HOME": "/"}) is None


@pytest.mark.parametrize(
    ("name", "value"), [("HALCYON_ATTEMPT", "x"), ("HALCYON_MESH", "{}"), ("HALCYON_RESTART", None)]
)
def test_a_damaged_environment_is_named(name: str, value: str | None) -> None:
    variables = {**POD.variables(), name: value}
    with pytest.raises(InvalidEnvironment, match="HALCYON_"):
        parse_environment({key: text for key, text in variables.items() if text is not None})


def test_reserved_exit_codes_do_not_overlap_other_exit_codes() -> None:
    assert {code.value for code in FATAL_CODES} == set(range(80, 90))
    assert ExitCode.PREEMPTED == 42
    assert all(code < 125 for code in ExitCode), "exit codes from 125 on belong to shells and runtimes"


@pytest.mark.parametrize(
    "hostile", [None, [], "x", {"attempt": "many"}, {"conditions": [{}]}, {"history": 3, "attempt": 4}]
)
def test_a_status_damaged_by_hand_is_read_field_by_field(hostile: Any) -> None:
    status = parse_status(hostile)
    assert isinstance(status, TrainingRunStatus)
    assert status.attempt == (4 if isinstance(hostile, dict) and hostile.get("attempt") == 4 else 0)


def test_defaults_read_back_from_the_stored_document() -> None:
    run = parse_run(document())
    assert parse_run(run.document()).spec == run.spec
