"""Each field has one class, the API server freezes exactly the frozen fields, and differences are reported field by
field.
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.checkpoint.fingerprints import DATA_FIELDS, TRAINER_FIELDS
from halcyon_api.base import ApiModel
from halcyon_api.edits.changes import changes, recorded, values_of
from halcyon_api.edits.classes import EDIT_RULES, MEANINGS, class_of, edit_rule_of, frozen_rules, leaves_of
from halcyon_api.edits.steps import settled_steps, steps_refusal
from halcyon_api.generate.crd import custom_resource_definition
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.status.requests import MAX_VALUE, read_recorded
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec

SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def schema_leaves(node: dict[str, Any], path: str = "") -> list[str]:
    """Paths of the schema's fields that hold no other fields."""
    below = node.get("properties", {})
    return (
        [path]
        if not below
        else [leaf for name, child in below.items() for leaf in schema_leaves(child, f"{path}.{name}".strip("."))]
    )


LEAVES = list(schema_leaves(SCHEMA["properties"]["spec"]))


def transition_rules(node: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Field and expression of each rule that reads the old object."""
    own = [
        (f"{path}{rule.get('fieldPath', '')}".strip("."), rule["rule"])
        for rule in node.get("x-kubernetes-validations", ())
        if "oldSelf" in rule["rule"]
    ]
    return own + [
        found
        for name, child in node.get("properties", {}).items()
        for found in transition_rules(child, f"{path}.{name}")
    ]


def spec(**changes: Any) -> TrainingRunSpec:
    return minimal_spec(**changes)


def test_every_field_of_the_schema_has_one_class() -> None:
    assert [leaf.path for leaf in leaves_of(TrainingRunSpec)] == LEAVES, (
        "the table must cover exactly the API server's fields"
    )
    assert [leaf for leaf in LEAVES if edit_rule_of(leaf) is None] == []
    assert {class_of(leaf) for leaf in LEAVES} == set(MEANINGS)
    assert [row.path for row in EDIT_RULES if all(edit_rule_of(leaf) is not row for leaf in LEAVES)] == [], (
        "a row that matches no field"
    )


def test_the_api_server_freezes_exactly_the_frozen_fields() -> None:
    rules = dict(transition_rules(SCHEMA["properties"]["spec"]))
    whole = {path for path, rule in rules.items() if f"self.{path}==" in rule}
    frozen = {leaf for leaf in LEAVES if class_of(leaf) == "frozen"}
    assert {leaf for leaf in LEAVES if any(leaf == path or leaf.startswith(f"{path}.") for path in whole)} == frozen - {
        "recovery.divergence.spike.windowSteps"
    }
    # The other rule is about several fields.
    assert set(rules) - whole == {"recovery.divergence.spike"}
    assert [path for path, _ in transition_rules({key: SCHEMA[key] for key in ("x-kubernetes-validations",)})] == [
        "spec.trainer.steps",
        "spec.checkpoint",
    ]


def test_a_checkpoint_is_compared_by_the_frozen_fields_and_the_steps() -> None:
    frozen = {".".join(leaf.split(".")[:2]) for leaf in LEAVES if class_of(leaf) == "frozen"}
    assert {field for field in frozen if field.startswith("data.")} == {f"data.{name}" for name in DATA_FIELDS}
    assert {field for field in frozen if field.startswith("trainer.")} | {"trainer.steps"} == {
        f"trainer.{name}" for name in TRAINER_FIELDS
    }


def test_a_difference_is_reported_with_both_values_and_a_default_is_no_difference() -> None:
    old = values_of(spec(spec__scheduling={"nodeSelector": {"a": "b"}}, spec__trainer__logEverySteps=1))
    new = values_of(spec(spec__recovery={"elastic": {"minSlices": 1}}, spec__image="x:1"))
    assert [str(change) for change in changes(old, new)] == [
        "image is x:1 but was not set",
        "recovery.elastic.minSlices is 1 but was not set",
        'scheduling.nodeSelector is {} but was {"a": "b"}',
    ]
    assert [change.edit for change in changes(old, new)] == ["atCheckpoint", "live", "atCheckpoint"]
    assert changes(values_of(spec()), values_of(spec(spec__mesh={}, spec__recovery={"maxRestarts": 10}))) == ()


def test_a_section_that_may_be_absent_is_frozen_as_a_whole_or_not_at_all() -> None:
    class Data(ApiModel):
        cache: int = 0
        seed: int = 0

    class Spec(ApiModel):
        data: Data | None = None

    with pytest.raises(ValueError, match="data: a section that may be absent must be frozen as a whole"):
        frozen_rules(Spec)


def test_a_record_holds_only_editable_fields_and_is_bounded() -> None:
    tolerations = [{"key": f"{'k' * 250}/{'l' * 60}", "value": "v" * 60} for _ in range(16)]
    values = values_of(spec(spec__scheduling={"tolerations": tolerations}))
    texts = recorded(values | {"scheduling.tolerations": tolerations * 10})
    assert not any(class_of(path) == "frozen" for path in texts)
    assert max(map(len, texts.values())) <= MAX_VALUE
    assert changes(read_recorded(texts), read_recorded(recorded(values)))[0].path == "scheduling.tolerations"
    assert read_recorded({"image": "{", "trainer.steps": "7"}) == {"trainer.steps": 7}


SCHEDULES: list[tuple[dict[str, Any], int, int | None]] = [
    ({"constant": {"warmupSteps": 5}}, 100, None),
    ({"cosine": {"warmupSteps": 5}}, 100, 5),
    ({"cosine": {"warmupSteps": 5, "decaySteps": 80}}, 100, None),
    ({"wsd": {"warmupSteps": 5, "decaySteps": 20}}, 100, 80),
    ({"phases": {"warmup": 5, "decay": 20}}, 100, 0),
]


@pytest.mark.parametrize(
    ("schedule", "steps", "settled"), SCHEDULES, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_more_steps_are_accepted_only_while_all_steps_done_are_settled(
    schedule: dict[str, Any], steps: int, settled: int | None
) -> None:
    optimizer = OptimizerSpec.model_validate({"schedule": schedule, "adamw": {}})
    assert settled_steps(optimizer, steps) == settled
    for done in range(steps + 1):
        refused = steps_refusal(optimizer, rehearsal=False, old=steps, new=steps + 50, done=done)
        assert (refused is None) == (settled is None or done <= settled)
    assert "at least 90" in (steps_refusal(optimizer, rehearsal=False, old=steps, new=89, done=90) or "")
    assert steps_refusal(optimizer, rehearsal=True, old=steps, new=steps, done=steps) is None


def test_the_number_of_steps_stays_with_other_schedules() -> None:
    points = [{"at": 5, "weightDecay": 0.5}]
    constant = {"schedule": {"constant": {}}, "adamw": {}, "otherSchedules": {"points": points}}
    refused = steps_refusal(OptimizerSpec.model_validate(constant), rehearsal=False, old=100, new=200, done=1)
    assert "because otherSchedules depends on the number of steps" in str(refused)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        (
            {"wsd": {"warmupSteps": 5, "decaySteps": 6}},
            "5 steps of warm-up and 6 of decay are more than the 10 steps of the run",
        ),
        ({"cosine": {"warmupSteps": 11}}, "11 steps of warm-up are more than the 10 steps of the run"),
        ({"cosine": {"warmupSteps": 5, "decaySteps": 5}}, "5 is not after the 5 steps of the warm-up"),
        (
            {"phases": {"warmup": 5, "decay": 0.6}},
            "decay: 5 steps of warm-up and 6 of decay are more than the 10 steps of the run",
        ),
        (
            {"phases": {"warmup": 11}},
            "warmup: 11 steps of warm-up and 0 of decay are more than the 10 steps of the run",
        ),
        (
            {"phases": {"cycles": 2, "rewarmup": 6}},
            "rewarmup: 6 steps of warm-up and 0 of decay are more than the 5 steps of cycle 2",
        ),
        ({"phases": {"warmup": 2.5}}, "warmup: 2.5 is neither a fraction nor whole steps"),
        (
            {"phases": {"cycleLengths": [6, 6]}},
            "cycleLengths: the cycles end at step 12, after the 10 steps of the run",
        ),
        ({"phases": {"cycleEnds": [4, 12]}}, "cycleEnds: the cycles end at step 12, after the 10 steps of the run"),
        ({"phases": {"cycleEnds": [6, 3]}}, "cycleEnds: the steps at which cycles end must rise"),
        ({"phases": {"cycles": 11}}, "cycles: 11 cycles are more than the 10 steps of the run"),
        ({"phases": {"shape": "inverse", "minRatio": 0}}, "minRatio: shape inverse never reaches 0"),
        ({"phases": {"shape": "linear", "exponent": 2}}, "exponent: shape linear has no exponent"),
        ({"phases": {"shape": "power", "exponent": 0.5}}, "exponent: shape power needs an exponent below 0"),
        ({"phases": {"scale": 3}}, "scale: shape cosine has no scale"),
    ],
)
def test_a_schedule_that_does_not_fit_into_the_run_is_reported(schedule: dict[str, Any], sentence: str) -> None:
    (problem,) = find_problems(spec(spec__optimizer={"schedule": schedule, "adamw": {}}))
    assert sentence in str(problem)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"points": [{"at": 11, "weightDecay": 1}]}, "points: a point at step 11 is after the 10 steps of the run"),
        (
            {"points": [{"at": 5, "weightDecay": 1}, {"at": 0.5, "weightDecay": 0}]},
            "points: the points must be in rising order of at",
        ),
        ({"points": [{"at": 5.5, "momentum": 0.9}]}, "points: at 5.5 is neither a fraction nor whole steps"),
        ({"rateByBatchSize": "sqrt"}, "rateByBatchSize: the batch size never changes"),
        (
            {"weightDecayShape": "cosine", "points": [{"at": 5, "weightDecay": 1}]},
            "weightDecayShape: points set the weight decay too",
        ),
    ],
)
def test_another_schedule_that_does_not_fit_into_the_run_is_reported(others: dict[str, Any], sentence: str) -> None:
    (problem,) = find_problems(spec(spec__optimizer={"otherSchedules": others, "adamw": {}}))
    assert sentence in str(problem)


def test_a_document_without_the_later_schedules_has_the_fingerprint_that_it_had() -> None:
    assert spec(spec__optimizer={"adamw": {}}).document()["optimizer"] == {
        "learningRate": 3e-4,
        "schedule": {"cosine": {"warmupSteps": 0, "minRatio": 0.1}},
        "weightDecay": 0.1,
        "maxGradientNorm": 1.0,
        "adamw": {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8},
    }
