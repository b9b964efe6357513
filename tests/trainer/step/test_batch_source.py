"""Batches that depend on the state of the training."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from halcyon_api.ends import ExitCode
from tests.trainer.support.process_groups import each_restart, run_document, start_processes

pytestmark = pytest.mark.slow

MODULE = "tests.trainer.support.rollout_child"
STEPS = 20


def test_a_run_on_its_own_samples_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source gets the state after the steps that were done, before and after a restart, and nothing else is kept of
    it.
    """
    calm = start_processes(
        run_document(tmp_path / "calm-root", slices=1, steps=STEPS), tmp_path / "calm", module=MODULE
    )
    assert calm.wait() == [ExitCode.DONE]
    expected = calm.leader.losses()
    assert sorted(expected) == list(range(1, STEPS + 1))

    losses: dict[int, float] = {}
    stops = [8, None]
    monkeypatch.setenv("AWAIT_NOTICE", "8,0")
    for group, stop in zip(
        each_restart(run_document(tmp_path / "root", slices=1, steps=STEPS), tmp_path / "run", module=MODULE),
        stops,
        strict=False,
    ):
        if stop is not None:
            group.leader.wait_for(
                lambda events: any(event.get("event") == "step" and event["step"] >= 7 for event in events)
            )
            group.signal(signal.SIGTERM, 0)
            monkeypatch.delenv("AWAIT_NOTICE")
        assert group.wait() == [ExitCode.DONE if stop is None else ExitCode.PREEMPTED]
        losses |= group.leader.losses()
    assert losses == expected
