"""How the real kstatus, which Flux uses to wait, interprets the conditions that the operator writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon_api.generate.argocd import SCRIPTS
from halcyon_api.generate.crd import UNSEEN
from halcyon_api.status.run_status import Phase
from tests.gitops.readers import BUILT, Reader
from tests.gitops.states import KSTATUS, run_in
from tests.operator import builders

pytestmark = BUILT
RECORDED = sorted((SCRIPTS / "testdata").glob("*.yaml"))


@pytest.mark.parametrize("phase", get_args(Phase))
def test_each_phase_has_one_meaning(kstatus: Reader, phase: Phase) -> None:
    assert kstatus.ask(run_in(phase))["status"] == KSTATUS[phase]


@pytest.mark.parametrize("phase", get_args(Phase))
def test_a_stalled_run_has_failed_in_every_phase(kstatus: Reader, phase: Phase) -> None:
    assert kstatus.ask(run_in(phase, stalled="InvalidSpec"))["status"] == "Failed"


@pytest.mark.parametrize("phase", get_args(Phase))
def test_a_status_of_an_older_generation_means_in_progress(kstatus: Reader, phase: Phase) -> None:
    assert kstatus.ask(run_in(phase, generation=2))["status"] == "InProgress"


def test_a_run_that_no_operator_has_seen_is_in_progress(kstatus: Reader) -> None:
    assert kstatus.ask(builders.run({"observedGeneration": UNSEEN}))["status"] == "InProgress"
    assert kstatus.ask(builders.run())["status"] == "Current", (
        "kstatus takes a run without a status for finished, so the CRD has that default"
    )


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_runs_have_the_expected_kstatus(kstatus: Reader, path: Path) -> None:
    run: dict[str, Any] = yaml.safe_load(path.read_text())
    stalled = any((one["type"], one["status"]) == ("Stalled", "True") for one in run["status"].get("conditions", []))
    expected = "Failed" if stalled else KSTATUS[run["status"].get("phase", "Pending")]
    assert kstatus.ask(run)["status"] == expected


@settings(max_examples=150)
@given(
    phase=st.sampled_from(get_args(Phase)), stalled=st.sampled_from(["", "InvalidSpec"]), generation=st.integers(1, 3)
)
def test_exactly_one_of_ready_reconciling_and_stalled_is_true(
    kstatus: Reader, phase: Phase, stalled: str, generation: int
) -> None:
    run = run_in(phase, stalled=stalled, generation=generation)
    truth = {one["type"]: one["status"] for one in run["status"]["conditions"]}
    assert [truth["Ready"], truth["Reconciling"], truth["Stalled"]].count("True") == 1
    expected = "InProgress" if generation != 1 else "Failed" if stalled else KSTATUS[phase]
    assert kstatus.ask(run)["status"] == expected
