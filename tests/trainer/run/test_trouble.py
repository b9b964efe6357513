"""Requests and notices that reach a run, and a run's own faults, with real process groups."""

from __future__ import annotations

import ctypes
import itertools
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from halcyon_api.ends import ExitCode
from halcyon_devcluster.waiting import holds_within
from tests.suite.limits import limit
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes
from tests.trainer.support.trouble_child import JOINING

pytestmark = pytest.mark.slow

MODULE = "tests.trainer.support.trouble_child"
TOKEN = "the-token"  # noqa: S105
LONG_STEPS = 10**6
"""More steps than are ever done: the run continues until the test ends it."""

Start = Callable[..., TrainerProcesses]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    groups: list[TrainerProcesses] = []

    def begin(document: dict[str, Any], **options: Any) -> TrainerProcesses:
        groups.append(start_processes(document, tmp_path / "run", **options))
        return groups[-1]

    yield begin
    for group in groups:
        group.reap()


def named(group: TrainerProcesses, name: str, index: int = 0) -> list[dict[str, Any]]:
    return [event for event in group.processes[index].events if event.get("event") == name]


def seen(name: str, count: int = 1) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda events: sum(event.get("event") == name for event in events) >= count


def seen_step(step: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda events: any(event.get("event") == "step" and event["step"] >= step for event in events)


def committed(root: Path) -> list[int]:
    return [entry["step"] for entry in json.loads((root / "HEAD").read_text())["committed"]]


def test_each_request_gets_one_checkpoint(tmp_path: Path, start: Start) -> None:
    """Requests over HTTP to process 0, and by a signal to another process; the run itself saves only at its end."""
    run = run_document(tmp_path / "root", steps=LONG_STEPS)
    run["spec"]["checkpoint"]["save"] = {"everySteps": 0}
    group = start(run, save_token=TOKEN)

    def ask(request: str) -> dict[str, Any]:
        address = f"http://127.0.0.1:{group.leader.port}/save"
        body = {"id": request, "run": "tiny", "attempt": 1, "restart": 0}
        answer = httpx.post(address, json=body, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False)
        assert answer.status_code == 202
        return dict(answer.json())

    group.leader.wait_for(seen_step(5))
    first = ask("one")
    group.leader.wait_for(seen("checkpoint"))
    assert ask("one") == first, "a repeated request must get the same answer"
    saved = named(group, "checkpoint")[0]["step"]
    assert saved >= first["step"] >= 5
    group.leader.wait_for(seen_step(saved + 20))
    assert len(named(group, "checkpoint")) == 1
    group.signal(signal.SIGUSR1, 1)
    group.leader.wait_for(seen("checkpoint", 2))
    again = named(group, "checkpoint")[1]["step"]
    assert committed(tmp_path / "root")[0] == again > saved
    group.leader.wait_for(seen_step(again + 20))
    assert len(named(group, "checkpoint")) == 2
    assert {len(named(group, "error", index)) for index in range(2)} == {0}


def test_each_timed_save_is_made_once(tmp_path: Path, start: Start) -> None:
    """Two steps carry the request of a due save before the save begins; it is made once."""
    run = run_document(tmp_path / "root", slices=1, steps=LONG_STEPS)
    run["spec"]["checkpoint"]["save"] = {"everySteps": 0, "everySeconds": 1}
    group = start(run)
    group.leader.wait_for(seen("checkpoint", 3))
    steps = [event["step"] for event in named(group, "checkpoint")]
    assert min(after - before for before, after in itertools.pairwise(steps)) > 1


@pytest.mark.parametrize(("grace", "saved"), [(30, "step"), pytest.param(0, "none", marks=pytest.mark.variant)])
def test_a_notice_makes_the_save_that_the_grace_period_allows(
    tmp_path: Path, start: Start, grace: int, saved: str
) -> None:
    run = run_document(tmp_path / "root", steps=LONG_STEPS)
    run["spec"]["checkpoint"]["save"] = {"everySteps": 10}
    group = start(run, grace_seconds=grace)
    group.leader.wait_for(seen("checkpoint"))
    group.signal(signal.SIGTERM, 1)
    assert group.wait() == [ExitCode.PREEMPTED] * 2
    reports = [process.report() for process in group.processes]
    assert [(report["cause"], report["saved"]) for report in reports] == [("preempted", saved)] * 2
    assert reports[0]["step"] == reports[1]["step"]
    newest = committed(tmp_path / "root")[0]
    if saved == "step":
        assert newest == reports[0]["step"]
        assert reports[0]["message"] == f"a notice of preemption came; step {newest} is saved"
    else:
        assert newest % 10 == 0
        assert "so none was finished; " in reports[0]["message"]
    assert named(group, "preempted", 1)[0]["saved"] == saved


@pytest.mark.parametrize(("number", "step"), [(1, 8), pytest.param(0, 4, marks=pytest.mark.variant)])
def test_a_notice_ends_an_evaluation_and_the_step_is_saved(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, number: int, step: int
) -> None:
    """An evaluation may take longer than the grace period. That of the last step is made by the next processes."""
    run = run_document(tmp_path / "root", steps=8, evaluation={"everySteps": 4, "batches": 40})
    run["spec"]["checkpoint"]["save"] = {"everySteps": 0}
    run["spec"]["data"]["validation"] = {"fraction": 0.5}
    monkeypatch.setenv("NOTICE_EVALUATING", f"{number},1")
    first = start(run, module=MODULE, grace_seconds=30)
    assert first.wait() == [ExitCode.PREEMPTED] * 2, first.leader.output_tail()
    assert [process.report()["message"] for process in first.processes] == [
        f"a notice of preemption came; step {step} is saved"
    ] * 2
    assert [event["step"] for event in named(first, "evaluation")] == [4][:number]
    assert committed(tmp_path / "root") == [step]

    monkeypatch.delenv("NOTICE_EVALUATING")
    second = start(run, attempt=2)
    assert second.wait() == [ExitCode.DONE] * 2, second.leader.output_tail()
    (last,) = named(second, "evaluation")
    assert (last["step"], last["sequences"]) == (8, 40 * run["spec"]["trainer"]["batchSize"])


def test_a_notice_ends_a_process_whose_main_thread_waits_to_join(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal does not end the wait if it comes just before it, or if the kernel gives it to another thread."""
    monkeypatch.setenv("HANG_JOINING", "1")
    process = start(run_document(tmp_path / "root", slices=1, topology="1x2"), module=MODULE).leader
    assert holds_within(lambda: any(JOINING in line for line in process.noise), 60), process.output_tail()
    pid = process.popen.pid
    other = next(int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir() if int(thread.name) != pid)
    assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGTERM) == 0
    assert process.wait() == ExitCode.PREEMPTED, process.output_tail()


def test_a_notice_ends_a_process_whose_step_never_ends_as_preempted_before_it_is_killed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANG", "7,0")
    process = start(run_document(tmp_path / "root", slices=1, steps=40), module=MODULE, grace_seconds=3).leader
    process.wait_for(seen("checkpoint"))
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == ExitCode.PREEMPTED, process.output_tail()
    report = process.report()
    assert report["saved"] == "none"
    assert report["message"].startswith("a notice of preemption came; the process did not stop in time; step")


def test_a_hung_step_ends_the_run_and_the_stacks_of_all_processes_are_kept(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of process 0 is much longer: it writes its stacks because process 1 tells it that it hangs."""
    monkeypatch.setenv("HANG", "12,1")
    monkeypatch.setenv("PATIENT", "0")
    run = run_document(tmp_path / "root", steps=40)
    run["spec"]["recovery"] = {"stepTimeoutSeconds": limit(3)}
    group = start(run, module=MODULE, restart=4)
    assert set(group.wait()) == {ExitCode.FAILURE}
    reports = [process.report() for process in group.processes]
    assert [(report["cause"], report.get("peerLost")) for report in reports] == [("failed", 1), ("hung", None)]
    for index in range(2):
        kept = tmp_path / "root" / "diagnostics" / f"hung-1.4-{index}.txt"
        (ending,) = named(group, "hung", index)
        assert ending["path"] == f"file://{kept}"
        # The limit is larger than the configured one if steps are slow: ten times the longest step so far.
        assert ending["limitSeconds"] >= limit(3)
        assert (ending["seconds"] > ending["limitSeconds"]) is (index == 1)
        assert ("wait_for_a_batch_that_never_comes" in kept.read_text()) is (index == 1)
        assert "train.py" in ending["stacks"]
    assert reports[1]["message"].startswith("no step ended for ")
    assert (
        f"the stacks of its threads are in file://{tmp_path}/root/diagnostics/hung-1.4-1.txt" in reports[1]["message"]
    )


def test_a_nan_loss_stops_the_run_before_its_step_is_committed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save is due after the poisoned step; the step's numbers are fetched before the save."""
    monkeypatch.setenv("POISON", "14")
    run = run_document(tmp_path / "root", steps=40)
    group = start(run, module=MODULE)
    assert group.wait() == [ExitCode.DIVERGED] * 2
    assert committed(tmp_path / "root") == [10, 5]
    for process in group.processes:
        report = process.report()
        assert (report["cause"], report["exitCode"]) == ("diverged", 86)
        assert report["message"].startswith(
            "the loss of step 15 is not a number and its gradient norm not a number; the last good checkpoint"
        )
        assert "that of step 10 (steps/" in report["message"]
        assert "recovery.divergence.nonFinite: skip" in report["message"]

    # The fix that the sentence names: the same run continues past the step.
    run["spec"]["recovery"] = {"divergence": {"nonFinite": "skip"}}
    mended = start(run, module=MODULE, attempt=2, resume_step=10)
    assert mended.wait() == [ExitCode.DONE] * 2
    assert [event["step"] for event in named(mended, "skipped")] == [15]
    assert committed(tmp_path / "root")[0] == 40
    assert mended.leader.losses()[16] < 10


def test_a_run_with_a_dropped_update_resumes_bitwise(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON", "12")
    losses: list[dict[int, float]] = []
    for root in ("calm", "stopped"):
        run = run_document(tmp_path / root, steps=30)
        run["spec"]["recovery"] = {"divergence": {"nonFinite": "skip", "spike": {"sigmas": 6.0, "windowSteps": 8}}}
        found: dict[int, float] = {}
        monkeypatch.setenv("HANG", "18,1" if root == "stopped" else "-1,-1")
        group = start(run, module=MODULE)
        if root == "stopped":
            group.leader.wait_for(seen_step(17))
            group.processes[1].popen.kill()
            group.wait()
            assert group.leader.report()["peerLost"] == 1, (
                "the operator must blame the node of process 1, not the node of this one"
            )
            monkeypatch.delenv("HANG")
            found |= group.leader.losses()
            group = start(run, module=MODULE, restart=1, resume_step=committed(tmp_path / root)[0])
        assert group.wait() == [ExitCode.DONE] * 2
        losses.append(found | group.leader.losses())
    calm, stopped = ({step: repr(loss) for step, loss in one.items()} for one in losses)
    assert calm == stopped
    assert calm[13] == "'NaN'"
