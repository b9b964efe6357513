"""More steps for a started run: bitwise the losses of a run with these steps from the start; rejected if they change
steps already done.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.trainer.support.process_groups import run_document, start_processes

pytestmark = pytest.mark.slow


def document(root: Path, steps: int, schedule: dict[str, Any]) -> dict[str, Any]:
    run = run_document(root, slices=1, steps=steps)
    run["spec"]["optimizer"]["schedule"] = schedule
    return run


def losses(run: dict[str, Any], directory: Path, *, attempt: int = 1) -> dict[int, float]:
    group = start_processes(run, directory, attempt=attempt)
    assert group.wait() == [ExitCode.DONE], group.leader.noise[-20:]
    return group.leader.losses()


@pytest.mark.variant
def test_a_finished_run_with_a_constant_rate_continues_with_more_steps(tmp_path: Path) -> None:
    constant = {"constant": {"warmupSteps": 3}}
    expected = losses(document(tmp_path / "whole-root", 16, constant), tmp_path / "whole")
    first = losses(document(tmp_path / "root", 10, constant), tmp_path / "run")
    more = losses(document(tmp_path / "root", 16, constant), tmp_path / "run", attempt=2)
    assert (sorted(first), sorted(more)) == (list(range(1, 11)), list(range(11, 17)))
    assert first | more == expected


def test_a_run_can_get_more_steps_until_its_decay_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wsd = {"wsd": {"warmupSteps": 3, "decaySteps": 5}}
    expected = losses(document(tmp_path / "whole-root", 26, wsd), tmp_path / "whole")
    monkeypatch.setenv("AWAIT_NOTICE", "8,0")
    group = start_processes(
        document(tmp_path / "root", 20, wsd), tmp_path / "run", module="tests.trainer.support.trouble_child"
    )
    group.leader.wait_for(lambda events: any(event.get("event") == "step" and event["step"] >= 7 for event in events))
    group.signal(signal.SIGTERM, 0)
    assert group.wait() == [ExitCode.PREEMPTED]
    first = group.leader.losses()
    assert max(first) < 15, "the decay must not have begun"
    more = losses(document(tmp_path / "root", 26, wsd), tmp_path / "run", attempt=2)
    assert first | more == expected

    refused = start_processes(document(tmp_path / "root", 40, wsd), tmp_path / "run", attempt=3)
    assert refused.wait() == [ExitCode.RUN_CHANGED]
    assert (
        "was made for 26 steps: spec.trainer.steps: the 26 steps that are done would have had other learning rates "
        "with 40" in (refused.leader.report()["message"])
    )
