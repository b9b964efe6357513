"""A run on accelerators is planned by a real pod without them, and a run ends when its budget is used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import variant
from halcyon_demo.training import RESOURCE
from halcyon_devcluster.waiting import until
from tests.cluster.life import UNENDING, WITHOUT_END
from tests.cluster.whole_path import WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.xdist_group("path")]

NAME = "planned"
CHIP = {"type": "v5e", "topology": "1x1", "pricePerChipHour": 1.2}
TOO_LONG = {"steps": 100, "batchSize": 8, "sequenceLength": 16_384, "microbatches": 1, "remat": "none"} | {
    "attention": "reference",
    "evaluation": {"everySteps": 0},
}


def test_a_run_that_cannot_fit_takes_no_hardware_and_a_mended_one_begins(path: WholePath) -> None:
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)

    def status() -> TrainingRunStatus:
        return parse_status(json.loads(kubectl("get", RESOURCE, NAME, *where, "--output=json")).get("status"))

    def ready() -> tuple[str, str]:
        condition = status().condition("Ready")
        return ("", "") if condition is None else (condition.reason, condition.message)

    def jobsets() -> list[str]:
        found = json.loads(kubectl("get", "jobset", *where, "--output=json"))["items"]
        return [one["metadata"]["name"] for one in found if one["metadata"]["name"].startswith(f"{NAME}-")]

    def seen(reason: str) -> None:
        until(lambda: ready()[0] == reason, timeout_seconds=240, failure=lambda: f"{ready()} {jobsets()}")

    document: dict[str, Any] = variant(path.document, name=NAME)
    document["spec"] |= {"accelerator": CHIP, "plan": "require", "trainer": TOO_LONG}
    kubectl.apply([document])
    try:
        seen("DoesNotFit")
        assert "a step does not fit: it takes " in ready()[1]
        until(lambda: jobsets() == [], timeout_seconds=60, failure=lambda: str(jobsets()))
        assert status().attempt == 0, "no attempt was made"
        document["spec"]["trainer"] = TOO_LONG | {"microbatches": 8}
        kubectl.apply([document])
        until(lambda: jobsets() == [f"{NAME}-1"], timeout_seconds=240, failure=lambda: f"{ready()} {jobsets()}")
        plan = status().plan
        assert plan is not None
        assert plan.chip_hours is not None
        assert (plan.fits, plan.cost) == (True, pytest.approx(1.2 * plan.chip_hours))
        shown = kubectl("get", RESOURCE, NAME, *where, "--output=wide")
        assert all(title in shown for title in ("FITS", "PLANNED MEMORY", "PLANNED TOKENS/S", "CHIP-HOURS", "COST"))
    finally:
        kubectl("delete", RESOURCE, NAME, *where)


def test_a_spent_budget_suspends_at_a_checkpoint_and_a_raised_one_goes_on(path: WholePath) -> None:
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)

    def document(name: str, steps: int) -> dict[str, Any]:
        found = variant(path.document, name=name)
        found["spec"]["optimizer"] = UNENDING
        found["spec"]["trainer"]["steps"] = steps
        return found

    def edit(**spec: Any) -> None:
        kubectl("patch", RESOURCE, "budgeted", *where, "--type=merge", f"--patch={json.dumps({'spec': spec})}")

    training = path.training_of(document("budgeted", WITHOUT_END))
    try:
        training.apply()
        training.wait_for_step(30)
        edit(budget={"chipHours": 1e-6})
        run = training.wait_for_phase("Suspended")
        ready, saved, spent = run.status.condition("Ready"), run.status.checkpoint, run.status.spent
        assert ready is not None
        assert saved is not None
        assert spent is not None
        assert (ready.reason, saved.step >= 30, spent.chip_hours > 1e-6) == ("BudgetSpent", True, True)
        steps = saved.step + 50
        edit(budget={"chipHours": 1000}, trainer={"steps": steps})
        _, lines = path.finish(training)
        undisturbed = path.training_of(document("unbudgeted", steps))
        undisturbed.apply()
        _, reference = path.finish(undisturbed)
        found = compare(losses(lines, "budgeted"), losses(reference, "unbudgeted"), steps)
        assert (found.differences, len(losses(lines, "budgeted"))) == ((), steps), "no step was done twice"
    finally:
        kubectl("delete", RESOURCE, "budgeted", "unbudgeted", *where, "--ignore-not-found", "--wait=false")
