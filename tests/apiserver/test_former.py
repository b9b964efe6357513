"""Runs of the previous release with the schema of this release: no field is pruned, and a document may move a field to its present place.

The objects are stored with the schema that the previous release installs (tests/cluster/previous.py), and with its defaults.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.crd import custom_resource_definition
from halcyon_api.edits.changes import Values, values_of
from halcyon_api.former.table import FORMER
from halcyon_api.spec.evaluation import EVALUATION_BATCHES
from halcyon_api.training_run import parse_run
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.waiting import until
from tests.api.documents import document
from tests.apiserver.api import Api, Refused
from tests.cluster import previous

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIZES = [{"fromStep": 4, "batchSize": 16}]
SHARES = [{"fromStep": 5, "weights": [{"source": "python", "weight": 1}]}]

DECAY = {"wsd": {"warmupSteps": 2, "decaySteps": 4}}

FORMER_VALUES: dict[str, Any] = {
    "stage": "data",
    "data.mixture.stages": SHARES,
    "optimizer.adamw.learningRate": 0.002,
    "optimizer.adamw.weightDecay": 0.3,
    "optimizer.adamw.maxGradientNorm": 2.0,
    "optimizer.adamw.schedule": DECAY,
    "trainer.stages": SIZES,
    "model.llama.remat": "full",
}
"""For each former place a value other than the default."""

OTHERS: dict[str, Any] = {
    "task": "train",
    "data.mixture.schedule": [{"fromStep": 6, "weights": [{"source": "python", "weight": 1}]}],
    "optimizer.learningRate": 0.004,
    "optimizer.weightDecay": 0.4,
    "optimizer.maxGradientNorm": 4.0,
    "optimizer.schedule": {"wsd": {"warmupSteps": 2, "decaySteps": 5}},
    "trainer.batchSchedule": [{"fromStep": 4, "batchSize": 32}],
    "trainer.remat": "dots",
}
"""For each present place another value."""
FREE = "trainer.remat"
"""A moved field that may change: an edit to another value is refused only while the former field has its own."""
ROWS = tuple(row for row in FORMER if row.former in FORMER_VALUES)
"""The rows that one run can have together: a run has one model."""


def changes(values: dict[str, Any]) -> dict[str, Any]:
    optimizer = {"spec__optimizer": {"adamw": {}}} if any(place.startswith("optimizer.") for place in values) else {}
    return optimizer | {"spec__" + place.replace(".", "__"): value for place, value in values.items()}


def moved(values: dict[str, Any]) -> dict[str, Any]:
    """The same values in their present places."""
    places = {row.former: row.present for row in ROWS}
    return {places[former]: value for former, value in values.items()}


CASES: dict[str, dict[str, Any]] = {
    "all": FORMER_VALUES,
    "none": {},
    **{former: {former: value} for former, value in FORMER_VALUES.items()},
}


def former_run(case: str) -> dict[str, Any]:
    return document(metadata__name=case.lower().replace(".", "-"), **changes(CASES[case]))


def present_run(case: str) -> dict[str, Any]:
    return document(metadata__name=case.lower().replace(".", "-"), **changes(moved(CASES[case])))


def spec_schema(definition: dict[str, Any]) -> dict[str, Any]:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


@pytest.fixture(scope="module")
def stored(api: Api, make_namespace: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A namespace for each way of applying, with runs that were stored with the schema of the previous release."""
    chart = previous.unpack(tmp_path_factory.mktemp("previous"))
    before = yaml.safe_load((chart / "files" / Path("halcyon.dev_trainingruns.yaml")).read_text())
    today = custom_resource_definition()
    # The archived release has fewer schedules than the last commit before the fields moved. A stored run may have any of them.
    spec_schema(before)["optimizer"]["properties"]["adamw"]["properties"]["schedule"] = spec_schema(today)["optimizer"]["properties"][
        "schedule"
    ]
    namespaces = {way: make_namespace() for way in ("client", "server")}

    def serves(definition: dict[str, Any]) -> bool:
        """Whether the API server uses a definition: it accepts the field `task` exactly if the definition has it."""
        has_task = "task" in spec_schema(definition)
        try:
            api.create(document(metadata__name="probe", spec__task="train"), namespaces["client"], dry_run=True)
        except Refused:
            return not has_task
        return has_task

    def install(definition: dict[str, Any]) -> None:
        api.patch(definition, {"spec": {"versions": definition["spec"]["versions"]}}, "")
        until(lambda: serves(definition), timeout_seconds=30, failure=lambda: "the API server does not use the definition")

    install(before)
    try:
        for way, namespace in namespaces.items():
            for case in CASES:
                api.create(former_run(case), namespace) if way == "client" else api.apply(former_run(case), namespace)
    finally:
        install(today)
    return namespaces


def apply(api: Api, way: str, case: str, after: dict[str, Any], namespace: str) -> dict[str, Any]:
    if way == "client":
        return api.edit(former_run(case), after, namespace, dry_run=True)
    return api.apply(after, namespace, dry_run=True)


def values_in(run: dict[str, Any]) -> Values:
    """The fields of a run that are neither at their default, nor at the default of the previous release for evaluations."""
    found = values_of(parse_run({key: value for key, value in run.items() if key != "status"}).spec)
    return {path: value for path, value in found.items() if (path, value) != ("trainer.evaluation.batches", EVALUATION_BATCHES)}


@pytest.mark.parametrize("way", ["client", "server"])
@pytest.mark.parametrize("case", CASES)
def test_a_stored_run_is_read_as_it_was_written(api: Api, stored: dict[str, str], way: str, case: str) -> None:
    found = api.get(former_run(case), stored[way])
    assert values_in(found) == values_in(present_run(case))


@pytest.mark.parametrize("way", ["client", "server"])
@pytest.mark.parametrize("case", CASES)
def test_a_document_may_put_the_same_value_into_the_present_place(api: Api, stored: dict[str, str], way: str, case: str) -> None:
    found = apply(api, way, case, present_run(case), stored[way])
    assert values_in(found) == values_in(present_run(case))
    unchanged = apply(api, way, case, former_run(case), stored[way])
    assert values_in(unchanged) == values_in(present_run(case))


@pytest.mark.parametrize("way", ["client", "server"])
@pytest.mark.parametrize("place", [place for place in OTHERS if place != FREE])
@pytest.mark.parametrize("case", ["all", "none"])
def test_another_value_is_refused_at_apply(api: Api, stored: dict[str, str], way: str, place: str, case: str) -> None:
    values = moved(CASES[case]) | {place: FORMER_VALUES["stage"] if place == "task" and case == "none" else OTHERS[place]}
    name = {"metadata__name": former_run(case)["metadata"]["name"]}
    with pytest.raises(Refused, match=r"must not change while the run exists|has moved to"):
        apply(api, way, case, document(**name, **changes(values)), stored[way])


def test_a_moved_field_that_may_change_is_moved_and_changed_in_one_edit(api: Api, stored: dict[str, str]) -> None:
    for case in ("model.llama.remat", "none"):
        after = document(metadata__name=former_run(case)["metadata"]["name"], **changes({FREE: OTHERS[FREE]}))
        for way, namespace in stored.items():
            assert values_in(apply(api, way, case, after, namespace))[FREE] == OTHERS[FREE]


def test_the_former_field_of_another_model_is_refused(api: Api, shared_namespace: str) -> None:
    with pytest.raises(Refused, match="exactly one"):
        api.create(document(spec__model__gpt2={"remat": "full"}), shared_namespace, dry_run=True)
    found = api.create(document(spec__model={"gpt2": {"remat": "full"}}), shared_namespace, dry_run=True)
    assert values_in(found)[FREE] == "full"
    with pytest.raises(Refused, match=r"model\.gpt2\.remat has moved to trainer\.remat, and the two differ"):
        api.create(document(spec__model={"gpt2": {"remat": "full"}}, spec__trainer__remat="dots"), shared_namespace, dry_run=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.former)
def test_a_new_run_with_two_values_of_one_field_is_refused(api: Api, shared_namespace: str, row: Any) -> None:
    values = {row.former: FORMER_VALUES[row.former], row.present: OTHERS[row.present]}
    if row.present == "task":
        values["task"] = "evaluate"
        values["from"] = {"run": "base"}
    with pytest.raises(Refused, match=f"{row.former} has moved to {row.present}, and the two differ"):
        api.create(document(**changes(values)), shared_namespace, dry_run=True)
    values = {row.former: FORMER_VALUES[row.former], row.present: FORMER_VALUES[row.former]}
    api.create(document(**changes(values)), shared_namespace, dry_run=True)


def test_kubectl_apply_moves_a_field(api: Api, api_server: ControlPlane, stored: dict[str, str]) -> None:
    """As for a repository of documents, with client-side and server-side apply."""
    for way, flags in {"client": [], "server": ["--server-side"]}.items():
        namespace = stored[way]
        run = document(metadata__name=f"kubectl-{way}", **changes(FORMER_VALUES))
        api_server.kubectl("apply", "--namespace", namespace, *flags, "--filename=-", stdin=yaml.safe_dump(run))
        after = document(metadata__name=f"kubectl-{way}", **changes(moved(FORMER_VALUES)))
        api_server.kubectl("apply", "--namespace", namespace, *flags, "--filename=-", stdin=yaml.safe_dump(after))
        found = api.get(after, namespace)
        assert values_in(found) == values_in(after)
        for row in ROWS:
            node: Any = copy.deepcopy(found["spec"])
            *sections, last = row.former.split(".")
            for section in sections:
                node = node[section]
            assert last not in node, "kubectl must remove the former field"
