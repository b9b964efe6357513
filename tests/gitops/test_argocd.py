"""The scripts for Argo CD, run by Argo CD's own code from the ConfigMap that users apply."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from halcyon_api import names
from halcyon_api.generate.argocd import SCRIPTS
from halcyon_api.status.run_status import Phase, TrainingRunStatus
from halcyon_operator.decide.tell.conditions import Description, with_description
from tests import pictures
from tests.gitops.readers import BUILT, Argo
from tests.gitops.states import HEALTH, run_in
from tests.operator import builders
from tests.operator.builders import at
from tests.operator.hostile import JUNK, STATUS, spoil

pytestmark = [*BUILT, pytest.mark.variant]
WORDS = {"Healthy", "Suspended", "Progressing", "Degraded"}
"""The health that a script may return. Argo CD itself sets Missing and Unknown."""


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "case", load(SCRIPTS / "health_test.yaml")["tests"], ids=lambda case: Path(case["inputPath"]).stem
)
def test_recorded_runs_have_their_health(argo: Argo, case: dict[str, Any]) -> None:
    assert argo.health(load(SCRIPTS / case["inputPath"])) == case["healthStatus"]


def test_runs_in_every_phase_were_recorded() -> None:
    recorded = [load(path) for path in (SCRIPTS / "testdata").glob("*.yaml")]
    assert {run["status"].get("phase") for run in recorded} >= set(get_args(Phase))
    assert {path.name for path in (SCRIPTS / "testdata").glob("*.yaml")} == {
        Path(case["inputPath"]).name for case in load(SCRIPTS / "health_test.yaml")["tests"]
    }


def test_the_guides_picture_is_what_argo_cd_says_of_the_recorded_runs(argo: Argo) -> None:
    table = Table("recorded", "health", "message", "actions", box=SIMPLE_HEAD)
    colours = {"Healthy": "green", "Degraded": "bold red", "Suspended": "magenta", "Progressing": "cyan"}
    for case in load(SCRIPTS / "health_test.yaml")["tests"]:
        run = load(SCRIPTS / case["inputPath"])
        health = argo.health(run)
        message, actions = Text(health["message"], overflow="fold"), ", ".join(sorted(argo.offers(run)))
        table.add_row(
            run["status"].get("phase", "not seen yet"),
            Text(health["status"], colours[health["status"]]),
            message,
            actions,
        )
    drawn = pictures.as_svg(table, "Argo CD: health and actions", 150)
    pictures.keep("gitops-argocd", drawn)
    assert (pictures.FOLDER / "gitops-argocd.svg").read_text(encoding="utf-8") == drawn, "run: make pictures"


@pytest.mark.parametrize("phase", get_args(Phase))
def test_each_phase_has_one_health(argo: Argo, phase: Phase) -> None:
    message = "fix it" if phase == "Failed" else f"it is {phase}"
    assert argo.health(run_in(phase)) == {"status": HEALTH[phase], "message": message}


def test_a_training_run_with_an_invalid_document_is_degraded(argo: Argo) -> None:
    assert argo.health(run_in("Running", stalled="InvalidSpec")) == {"status": "Degraded", "message": "fix it"}


@pytest.mark.parametrize("phase", get_args(Phase))
def test_a_status_of_an_older_generation_means_in_progress(argo: Argo, phase: Phase) -> None:
    assert argo.health(run_in(phase, generation=2))["status"] == "Progressing"


@pytest.mark.parametrize(
    "status", [None, {}, {"observedGeneration": -1}, {"observedGeneration": 1}, {"conditions": []}]
)
def test_a_run_that_no_operator_has_seen_is_in_progress(argo: Argo, status: dict[str, Any] | None) -> None:
    assert argo.health(builders.run(status))["status"] == "Progressing"


@settings(max_examples=200)
@given(
    phase=st.sampled_from(get_args(Phase)),
    stalled=st.sampled_from(["", "InvalidSpec", "NoValidCheckpoint"]),
    message=st.text(max_size=3000),
    fewer=st.booleans(),
)
def test_every_status_of_the_operator_has_a_health(
    argo: Argo, phase: Phase, stalled: str, message: str, fewer: bool
) -> None:
    before = TrainingRunStatus.model_validate(
        {**STATUS, "placement": STATUS["placement"] | {"reason": message[:99] if fewer else None}}
    )
    status = with_description(before, Description(phase, phase, message, stalled, message if stalled else ""), 1, at(0))
    health = argo.health(builders.run(status.document()))
    assert health["status"] == ("Degraded" if stalled else HEALTH[phase])


@settings(max_examples=300)
@given(st.data())
def test_no_content_of_a_run_makes_a_script_fail(argo: Argo, data: st.DataObject) -> None:
    document = builders.run(
        data.draw(JUNK) if data.draw(st.booleans()) else spoil(STATUS, data), suspend=data.draw(st.booleans())
    )
    found = argo.look(document)
    assert "error" not in found, found
    assert found["health"]["status"] in WORDS
    assert {action["name"] for action in found.get("actions", ())} <= {"suspend", "resume", "checkpoint", "restart"}


@pytest.mark.parametrize("message", [5, True, [], {"a": 1}, None, ""], ids=repr)
@pytest.mark.parametrize("kind", ["Stalled", "Failed", "Suspended", "Reconciling", "Ready", "Degraded"])
def test_a_message_that_is_not_a_text_is_left_out(argo: Argo, kind: str, message: Any) -> None:
    conditions = [
        {"type": kind, "status": "True", "message": message},
        {"type": "Ready", "status": "True", "message": message},
    ]
    assert set(argo.health(builders.run({"observedGeneration": 1, "conditions": conditions}))) == {"status"}


def action_tests() -> dict[str, Any]:
    return load(SCRIPTS / "actions" / "action_test.yaml")


@pytest.mark.parametrize("case", action_tests()["discoveryTests"], ids=lambda case: Path(case["inputPath"]).stem)
def test_recorded_runs_offer_their_actions(argo: Argo, case: dict[str, Any]) -> None:
    found = argo.look(load(SCRIPTS / "actions" / case["inputPath"])).get("actions", [])
    assert sorted(found, key=lambda action: action["name"]) == case["result"]


@pytest.mark.parametrize("case", action_tests()["actionTests"], ids=lambda case: case["action"])
def test_an_action_edits_what_it_should_and_nothing_else(argo: Argo, case: dict[str, Any]) -> None:
    before = load(SCRIPTS / "actions" / case["inputPath"])
    after, expected = argo.do(case["action"], before), load(SCRIPTS / "actions" / case["expectedOutputPath"])
    asking = {"checkpoint": names.ANNOTATION_CHECKPOINT, "restart": names.ANNOTATION_RESTART}
    if (annotation := asking.get(case["action"])) is not None:  # the value is the time
        asked = after["metadata"]["annotations"][annotation]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", asked)
        after["metadata"]["annotations"][annotation] = expected["metadata"]["annotations"][annotation]
    assert after == expected


def test_every_action_is_tested_and_can_be_found() -> None:
    there = {path.parent.name for path in (SCRIPTS / "actions").glob("*/action.lua")}
    offered = {action["name"] for case in action_tests()["discoveryTests"] for action in case["result"]}
    assert there == offered == {case["action"] for case in action_tests()["actionTests"]}
