"""A document may have a field in its former place: it is read as if the field stood in its present one, and nothing is lost in silence."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from halcyon_api.crd import custom_resource_definition
from halcyon_api.defaults.files import with_values
from halcyon_api.defaults.resource import TrainingRunDefaultsSpec
from halcyon_api.former.reading import field_at, present_form
from halcyon_api.former.schema import FORMER_PLACE, add_former
from halcyon_api.former.table import FORMER, MovedField
from halcyon_api.training_run import InvalidRun, TrainingRunSpec, former_notes, parse_run
from tests.api.documents import document

SIZES = [{"fromStep": 4, "batchSize": 16}]
SHARES = [{"fromStep": 5, "weights": [{"source": "python", "weight": 1}]}]

VALUES: dict[str, tuple[Any, Any]] = {
    "stage": ("data", "train"),
    "data.mixture.stages": (SHARES, []),
    "trainer.stages": (SIZES, []),
}
"""For each former place a value that is not the default, and the default that the API server fills into the present place."""


def path(place: str) -> str:
    return "spec__" + place.replace(".", "__")


@pytest.mark.parametrize("row", FORMER, ids=lambda row: row.former)
def test_the_value_of_a_former_place_is_the_run_s(row: MovedField) -> None:
    value, filled_in = VALUES[row.former]
    written = parse_run(document(**{path(row.present): value})).spec
    assert parse_run(document(**{path(row.former): value})).spec == written
    assert parse_run(document(**{path(row.former): value, path(row.present): filled_in})).spec == written, "the server's default"
    assert parse_run(document(**{path(row.former): value, path(row.present): value})).spec == written
    assert parse_run(document(**{path(row.former): None, path(row.present): value})).spec == written, "null is absent"
    assert written != parse_run(document()).spec


@pytest.mark.parametrize("row", FORMER, ids=lambda row: row.former)
def test_two_values_of_one_field_are_refused_in_one_sentence(row: MovedField) -> None:
    value, filled_in = VALUES[row.former]
    with pytest.raises(InvalidRun) as refused:
        parse_run(document(**{path(row.former): filled_in, path(row.present): value}))
    assert str(refused.value) == f"spec.{row.former}: it has moved to spec.{row.present}, and the two differ; take spec.{row.former} out"


def test_reading_changes_nothing_that_was_given() -> None:
    given = document(**{path(former): value for former, (value, _) in VALUES.items()})
    before = copy.deepcopy(given)
    parse_run(given)
    assert given == before


def test_former_places_are_noted_once_each_and_present_ones_never() -> None:
    given = document(**{path(former): value for former, (value, _) in VALUES.items()})
    assert former_notes(given) == tuple(row.note for row in FORMER)
    assert FORMER[0].note == "spec.stage is the former place of spec.task; write spec.task"
    assert former_notes(document(**{path(row.present): VALUES[row.former][0] for row in FORMER})) == ()
    assert former_notes("no document") == ()


@pytest.mark.parametrize("hostile", [None, "x", [], {"trainer": 3}, {"trainer": [], "stage": {}}, {"data": {"mixture": "x"}}])
def test_what_is_no_document_is_left_for_the_schema_to_refuse(hostile: Any) -> None:
    assert present_form(hostile, TrainingRunSpec).contradictions == ()
    with pytest.raises(InvalidRun):
        parse_run(document() | {"spec": hostile})


def test_a_section_in_the_way_of_a_present_place_loses_nothing() -> None:
    """The former field stays where it is, so that the schema refuses the document."""
    rows = (MovedField("stage", "telemetry.port"),)
    found = present_form({"stage": 9400, "telemetry": "x"}, TrainingRunSpec, rows)
    assert found.spec == {"stage": 9400, "telemetry": "x"}
    assert found.contradictions


def test_defaults_are_read_by_the_same_table() -> None:
    rows = (MovedField("telemetry.metricsPort", "telemetry.port"), MovedField("stage", "task"))
    found = present_form({"telemetry": {"metricsPort": 9500}, "stage": "data"}, TrainingRunDefaultsSpec, rows)
    assert found.spec == {"telemetry": {"port": 9500}, "stage": "data"}, "defaults have no task, so the schema refuses stage"
    schema: dict[str, Any] = {"properties": {"telemetry": {"properties": {"port": {"type": "integer", "default": 1, "description": "d"}}}}}
    add_former(schema, rows)
    added = schema["properties"]["telemetry"]["properties"]["metricsPort"]
    assert added == {"type": "integer", "description": f"{FORMER_PLACE}`telemetry.port`; write `telemetry.port`."}


def test_what_a_run_takes_from_its_defaults_is_its_own_in_a_former_place_too() -> None:
    """The merge with defaults goes by present places."""
    found = with_values(document(spec__stage="data"), {"image": "x:1"})
    assert (found["spec"]["task"], found["spec"]["image"], "stage" in found["spec"]) == ("data", "x:1", False)


def test_each_row_is_in_the_schema_described_and_without_a_value_of_its_own() -> None:
    spec = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def look(node: dict[str, Any]) -> None:
        assert "default" not in node
        assert node["description"].startswith(FORMER_PLACE)
        for child in node.get("properties", {}).values():
            look(child)

    for row in FORMER:
        assert field_at(TrainingRunSpec, row.present) is not None
        assert field_at(TrainingRunSpec, row.former) is None, "a former place is no field of the present form"
        node = spec
        for part in row.former.split("."):
            node = node["properties"][part]
        look(node)
