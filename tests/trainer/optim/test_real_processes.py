"""A run with any update rule, and a moving average, has bitwise the same losses and state after a SIGKILL."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint.comparison import compare
from halcyon.optim.registry import RULES
from halcyon_api.exit_codes import ExitCode
from tests.trainer.process_groups import each_restart, run_document, start_processes
from tests.trainer.test_resume import newest_checkpoint, seen_step

pytestmark = [pytest.mark.slow, pytest.mark.variant]

STEPS = 12


def document(root: Path, rule: str) -> dict[str, Any]:
    run = run_document(root, steps=STEPS, slices=1)
    run["spec"]["optimizer"] = {"learningRate": 0.003, "schedule": {"constant": {"warmupSteps": 3}}, rule: {}}
    run["spec"]["average"] = {"ema": {"decay": 0.8}}
    return run


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_resumes_bitwise_through_sigkill(tmp_path: Path, rule: str) -> None:
    calm = start_processes(document(tmp_path / "calm-root", rule), tmp_path / "calm")
    assert calm.wait() == [ExitCode.DONE]
    expected, losses = calm.leader.losses(), dict[int, float]()
    for number, group in enumerate(each_restart(document(tmp_path / "root", rule), tmp_path / "run")):
        if number == 0:
            group.leader.wait_for(seen_step(7))
            group.signal(signal.SIGKILL, 0)
        assert group.wait() == [-signal.SIGKILL if number == 0 else ExitCode.DONE]
        losses |= group.leader.losses()
        assert all(loss == expected[step] for step, loss in group.leader.losses().items())
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert list(compare(*(newest_checkpoint(tmp_path / name) for name in ("calm-root", "root")))) == []
