"""A run that loses a slice and gets it back has the losses of an undisturbed run, to rounding: the same batches in the
same order.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.elastic import on_slices
from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from tests.trainer.run.test_resume import document, seen_step
from tests.trainer.support.process_groups import start_processes

pytestmark = pytest.mark.slow

ROUNDING = 2e-4
ELASTIC = {"slices": 2, "topology": "1x2"}


def sized(run: dict[str, Any], slices: int) -> dict[str, Any]:
    """The run document of an attempt with this number of slices, as the operator makes it."""
    return run | {"spec": on_slices(parse_run(run).spec, slices).document()}


@pytest.mark.parametrize("steps", [30, pytest.param(60, marks=pytest.mark.variant)])
def test_a_run_on_two_slices_then_one_then_two_has_the_losses_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    calm = document(tmp_path, "calm-root", steps, **ELASTIC)
    group = start_processes(calm, tmp_path / "calm")
    assert group.wait() == [ExitCode.DONE] * 2
    expected = group.leader.losses()
    run = document(tmp_path, "root", steps, **ELASTIC)
    run["spec"]["recovery"] = {"elastic": {"minSlices": 1}}
    losses: dict[int, float] = {}
    committed, sizes = 0, []
    for attempt, (slices, stop) in enumerate(((2, steps // 6), (1, steps // 2), (2, None)), start=1):
        monkeypatch.setenv("AWAIT_NOTICE", f"{stop or -1},0")
        module = "tests.trainer.support.trouble_child"
        group = start_processes(
            sized(run, slices), tmp_path / "run", attempt=attempt, resume_step=committed, module=module
        )
        try:
            if stop is not None:
                group.leader.wait_for(seen_step(stop - 1))
                for index in range(slices):  # as the deletion of the JobSet does
                    group.signal(signal.SIGTERM, index)
            codes = group.wait()
        finally:
            group.reap()
        assert codes == [ExitCode.PREEMPTED if stop is not None else ExitCode.DONE] * slices
        own = group.leader.losses()
        assert min(own) == committed + 1, "it continues from the last step of the other number of slices"
        losses |= own
        committed = group.leader.report()["step"]
        sizes.append(len(group.processes))
    assert sizes == [2, 1, 2]
    assert sorted(losses) == list(range(1, steps + 1))
    assert [losses[step] for step in sorted(losses)] == pytest.approx(
        [expected[step] for step in sorted(losses)], rel=ROUNDING
    )
    apart = [abs(expected[step + 1] - expected[step]) > 10 * ROUNDING * expected[step] for step in range(1, steps)]
    assert sum(apart) > steps / 2, "another batch would change the loss"
