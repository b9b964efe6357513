"""A document may have a field in its former place: it is read as if the field were in its present place, and no value is lost silently."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.crd import custom_resource_definition
from halcyon_api.defaults.files import with_values
from halcyon_api.defaults.resource import TrainingRunDefaultsSpec
from halcyon_api.former.reading import field_at, former_form, present_form
from halcyon_api.former.schema import FORMER_PLACE, add_former
from halcyon_api.former.table import FORMER, MovedField
from halcyon_api.training_run import InvalidRun, TrainingRunSpec, former_notes, parse_run
from tests.api.documents import document

SIZES = [{"fromStep": 4, "batchSize": 16}]
SHARES = [{"fromStep": 5, "weights": [{"source": "python", "weight": 1}]}]

DECAY = {"wsd": {"warmupSteps": 2, "decaySteps": 4, "minRatio": 0.0}}
COSINE = {"cosine": {"warmupSteps": 0, "minRatio": 0.1}}

VALUES: dict[str, tuple[Any, Any]] = {
    "stage": ("data", "train"),
    "data.mixture.stages": (SHARES, []),
    "optimizer.adamw.learningRate": (0.002, 3e-4),
    "optimizer.adamw.weightDecay": (0.3, 0.1),
    "optimizer.adamw.maxGradientNorm": (2.0, 1.0),
    "optimizer.adamw.schedule": (DECAY, COSINE),
    "trainer.stages": (SIZES, []),
    "model.llama.remat": ("full", "none"),
    "model.gpt2.remat": ("dots", "none"),
}
"""For each former place: a value other than the default, and the default that the API server writes into the present place."""


def path(place: str) -> str:
    return "spec__" + place.replace(".", "__")


def with_fields(fields: dict[str, Any], family: str = "llama") -> dict[str, Any]:
    """The minimal run, with a model of a family and values at paths below its spec."""
    model = {} if family == "llama" else {"spec__model": {family: {}}}
    return document(**{"spec__optimizer": {"adamw": {}}} | model | {path(place): value for place, value in fields.items()})


def family_of(row: MovedField) -> str:
    """The model of a run with this former field."""
    return "gpt2" if row.former.startswith("model.gpt2.") else "llama"


ROWS = tuple(row for row in FORMER if family_of(row) == "llama")
"""The rows that one run can have together."""


@pytest.mark.parametrize("row", FORMER, ids=lambda row: row.former)
def test_a_value_in_a_former_place_is_read_as_in_its_present_place(row: MovedField) -> None:
    value, filled_in = VALUES[row.former]

    def read(fields: dict[str, Any]) -> TrainingRunSpec:
        return parse_run(with_fields(fields, family_of(row))).spec

    written = read({row.present: value})
    assert read({row.former: value}) == written
    assert read({row.former: value, row.present: filled_in}) == written, "the API server's default must not count"
    assert read({row.former: value, row.present: value}) == written
    assert read({row.former: None, row.present: value}) == written, "null must count as absent"
    assert written != read({})


@pytest.mark.parametrize("row", FORMER, ids=lambda row: row.former)
def test_two_values_of_one_field_are_rejected_in_one_sentence(row: MovedField) -> None:
    value, filled_in = VALUES[row.former]
    former = "offload" if row.present == "trainer.remat" else filled_in
    with pytest.raises(InvalidRun) as refused:
        parse_run(with_fields({row.former: former, row.present: value}, family_of(row)))
    assert str(refused.value) == f"spec.{row.former}: it has moved to spec.{row.present}, and the two differ; take spec.{row.former} out"


def test_parsing_does_not_change_the_given_document() -> None:
    given = with_fields({row.former: VALUES[row.former][0] for row in ROWS})
    before = copy.deepcopy(given)
    parse_run(given)
    assert given == before


def test_each_former_place_is_noted_once_and_present_places_are_not() -> None:
    given = with_fields({row.former: VALUES[row.former][0] for row in ROWS})
    assert former_notes(given) == tuple(row.note for row in ROWS)
    assert FORMER[0].note == "spec.stage is the former place of spec.task; write spec.task"
    assert former_notes(with_fields({row.present: VALUES[row.former][0] for row in ROWS})) == ()
    assert former_notes("no document") == ()


def test_the_default_that_an_earlier_api_server_wrote_does_not_prevent_a_change() -> None:
    found = parse_run(with_fields({"model.llama.remat": "none", "trainer.remat": "dots"}))
    assert found.spec.trainer.remat == "dots"


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_field_of_several_former_places_goes_back_to_that_of_its_model(family: str) -> None:
    spec = parse_run(with_fields({"trainer.remat": "full"}, family)).spec.document()
    former = former_form(spec)
    assert former["model"].keys() == spec["model"].keys()
    assert former["model"][family].get("remat") == (None if family == "mixtral" else "full")
    assert former["trainer"].get("remat") == ("full" if family == "mixtral" else None)


@pytest.mark.parametrize("hostile", [None, "x", [], {"trainer": 3}, {"trainer": [], "stage": {}}, {"data": {"mixture": "x"}}])
def test_a_malformed_document_is_left_for_the_schema_to_reject(hostile: Any) -> None:
    assert present_form(hostile, TrainingRunSpec).contradictions == ()
    with pytest.raises(InvalidRun):
        parse_run(document() | {"spec": hostile})


def test_a_field_that_cannot_move_stays_in_its_former_place() -> None:
    """The former field stays where it is, so that the schema rejects the document."""
    rows = (MovedField("stage", "telemetry.port"),)
    found = present_form({"stage": 9400, "telemetry": "x"}, TrainingRunSpec, rows)
    assert found.spec == {"stage": 9400, "telemetry": "x"}
    assert found.contradictions


def test_defaults_are_read_by_the_same_table() -> None:
    rows = (MovedField("telemetry.metricsPort", "telemetry.port"), MovedField("stage", "task"))
    found = present_form({"telemetry": {"metricsPort": 9500}, "stage": "data"}, TrainingRunDefaultsSpec, rows)
    assert found.spec == {"telemetry": {"port": 9500}, "stage": "data"}, (
        "defaults have no task, so stage must stay for the schema to reject"
    )
    schema: dict[str, Any] = {"properties": {"telemetry": {"properties": {"port": {"type": "integer", "default": 1, "description": "d"}}}}}
    add_former(schema, rows)
    added = schema["properties"]["telemetry"]["properties"]["metricsPort"]
    assert added == {"type": "integer", "description": f"{FORMER_PLACE}`telemetry.port`; write `telemetry.port`."}


def test_defaults_are_merged_into_a_run_with_fields_in_former_places() -> None:
    """The merge with defaults uses present places."""
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
        assert field_at(TrainingRunSpec, row.former) is None, "a former place must not be a field of the present form"
        node = spec
        for part in row.former.split("."):
            node = node["properties"][part]
        look(node)


SCHEDULES: list[tuple[Any, Any, Any]] = [
    ({"wsd": {"minRatio": 0.0}}, DECAY, DECAY),
    ({"cosine": {"minRatio": 0.1}}, {"cosine": {"warmupSteps": 3, "minRatio": 0.1}}, {"cosine": {"warmupSteps": 3}}),
    ({"cosine": {"warmupSteps": 3}}, COSINE, {"cosine": {"warmupSteps": 3}}),
    ({"cosine": {"decaySteps": 8, "minRatio": 0.2}}, COSINE, {"cosine": {"decaySteps": 8, "minRatio": 0.2}}),
    ({}, DECAY, DECAY),
    ({"constant": {}}, COSINE, {"constant": {}}),
    (COSINE, DECAY, None),
    ({"constant": {}}, {"cosine": {"warmupSteps": 3}}, None),
    ({"cosine": {"warmupSteps": 3}}, {"cosine": {"warmupSteps": 4}}, None),
    ({"cosine": {"decaySteps": 8}}, {"cosine": {"decaySteps": 9}}, None),
]


@pytest.mark.parametrize(("former", "present", "counts"), SCHEDULES, ids=str)
def test_a_schedule_is_joined_member_by_member(former: Any, present: Any, counts: Any) -> None:
    """If a user moves the fields of the document, fields that the API server once filled in stay in the former place."""
    given = with_fields({"optimizer.adamw.schedule": former, "optimizer.schedule": present})
    if counts is None:
        with pytest.raises(InvalidRun, match="the two differ"):
            parse_run(given)
    else:
        assert parse_run(given).spec == parse_run(with_fields({"optimizer.schedule": counts})).spec


def test_the_guide_lists_the_table() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "install.md").read_text()
    assert "\n".join(f"| `{row.former}` | `{row.present}` |" for row in FORMER) in guide
