"""What applying a document would do, in every phase of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.status.run_status import parse_status
from halcyon_api.training_run import TrainingRunSpec
from halcyon_cli.cluster import Runs
from halcyon_cli.commands.views import diff
from halcyon_cli.differing import Difference, difference, difference_view
from tests.api.documents import document, minimal_spec
from tests.cli.api_server import Server
from tests.cli.test_report import STATUS
from tests.cli.test_status_view import text

CONSTANT = {"schedule": {"constant": {}}, "adamw": {}}


def spec(**changes: Any) -> TrainingRunSpec:
    return minimal_spec(**changes)


def compared(
    wanted: dict[str, Any], *, phase: str = "Running", step: int = 5, refusal: str = "", **live: Any
) -> Difference:
    status = parse_status({**STATUS, "phase": phase, "progress": {"step": step, "steps": 10}})
    return difference(spec(**live), spec(**{**live, **wanted}), status, refusal)


def test_a_document_with_equal_values_written_differently_has_no_differences() -> None:
    found = compared({"spec__recovery": {"maxRestarts": 10}, "spec__mesh": {"ici": {"fsdp": -1}}})
    assert (found.effects, found.outcome) == ((), "nothing")
    assert text(difference_view(found)).strip() == "nothing differs"


def test_each_changed_field_has_its_effect_and_the_strongest_decides() -> None:
    found = compared({"spec__recovery": {"maxRestarts": 3}, "spec__image": "x:2", "spec__trainer__seed": 7})
    assert [(effect.change.path, effect.outcome) for effect in found.effects] == [
        ("image", "restart"),
        ("trainer.seed", "refused"),
        ("recovery.maxRestarts", "atOnce"),
    ]
    assert found.sentence.startswith("applying is refused: spec.trainer.seed: it must not change while the run exists")
    lines = text(difference_view(found)).splitlines()
    assert lines[1].split()[:6] == ["image", "not", "set", "x:2", "at", "a"]
    assert "frozen" in lines[2]


@pytest.mark.parametrize(
    ("phase", "outcome", "words"),
    [
        ("Running", "restart", "no step is lost"),
        ("Restarting", "restart", "no step is lost, because nothing trains now"),
        ("Queued", "restart", "no step is lost, because nothing trains now"),
        ("Failed", "restart", "new attempt at once"),
        ("Suspended", "restart", "applying resumes the run, from its last checkpoint"),
        ("Succeeded", "nothing", "the run has succeeded"),
    ],
)
def test_the_effect_of_an_edit_depends_on_the_phase(phase: str, outcome: str, words: str) -> None:
    found = compared({"spec__image": "x:2"}, phase=phase)
    assert found.outcome == outcome
    assert words in found.sentence


def test_edits_of_a_suspended_run_take_effect_when_it_is_resumed() -> None:
    for phase, live, words in (
        ("Suspended", True, "when the run is resumed"),
        ("Running", False, "applying suspends the run; the rest"),
    ):
        found = compared({"spec__image": "x:2", "spec__suspend": True}, phase=phase, spec__suspend=live)
        assert found.outcome == "later"
        assert words in found.sentence


def test_a_live_edit_is_in_force_at_once() -> None:
    found = compared({"spec__recovery": {"maxRestarts": 3}})
    assert (found.outcome, found.sentence) == ("atOnce", "applying takes effect at once, and training continues")


def test_an_edit_of_steps_is_checked_against_the_steps_done() -> None:
    more = {"spec__trainer__steps": 20}
    assert "the 5 steps that are done would have had other learning rates" in compared(more).sentence
    assert compared(more, spec__optimizer=CONSTANT).outcome == "restart"
    again = compared(more, phase="Succeeded", step=10, spec__optimizer=CONSTANT)
    assert (again.outcome, again.effects[0].sentence) == ("restart", "the run goes on from its last checkpoint")


def test_a_rejection_by_the_api_server_overrides_all_effects() -> None:
    found = compared({"spec__image": "x:2"}, refusal="denied by policy images")
    assert (found.outcome, found.sentence) == ("refused", "applying is refused: denied by policy images")


def test_a_run_with_store_settings_and_no_root_yet_can_be_compared(
    server: Server, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The place of its checkpoints is not known yet, so the store's settings are compared with any root that they
    fit.
    """
    wanted = document(spec__checkpoint={"credentialsSecret": {"name": "mine"}}, metadata__name="small")
    server.run = wanted | {"metadata": {"name": "small", "namespace": "training"}}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(wanted))
    diff("small", file)
    assert capsys.readouterr().out == "nothing differs\n"
