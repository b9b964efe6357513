"""A run that notices stopped has bitwise the losses of an undisturbed run.

(For kills see tests/faults/test_kills.py.)
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import halcyon
from halcyon.checkpoint.arrays import Checkpoint, compare
from halcyon.checkpoint.evidence import read_chain, unlike_history
from halcyon.checkpoint.opening import entry_of, list_checkpoints
from halcyon.commands.main import app
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.reading import read_history
from halcyon.weights.folder import address
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.families import SMALL_FAMILIES, sections_of
from tests.suite import promises
from tests.trainer.support import images
from tests.trainer.support.labels import labelled, paired
from tests.trainer.support.process_groups import TrainerProcesses, each_restart, run_document, start_processes
from tests.trainer.support.speech import WHISPER, clips

pytestmark = pytest.mark.slow

STEPS = 40


EACH_PART = ("gemma3", "deepseekV3", "qwen3Next", "modernBert", "whisper", "labels", "pairs", "vision")
"""Together they have each kind of part: windows, sandwich norms, experts, latent attention, gated delta nets, masks of
tokens, sounds, labels of texts, vectors of texts, images."""


def document(tmp_path: Path, name: str, steps: int = STEPS, **options: Any) -> dict[str, Any]:
    return run_document(tmp_path / name, steps=steps, **options)


def undisturbed(tmp_path: Path, steps: int = STEPS, **options: Any) -> dict[int, float]:
    group = start_processes(document(tmp_path, "calm-root", steps, **options), tmp_path / "calm")
    assert group.wait() == [ExitCode.DONE] * len(group.processes)
    losses = group.leader.losses()
    assert sorted(losses) == list(range(1, steps + 1))
    return losses


def seen_step(step: int) -> Any:
    return lambda events: any(event.get("event") == "step" and event["step"] >= step for event in events)


def collect(into: dict[int, float], group: TrainerProcesses, expected: dict[int, float]) -> None:
    """Add the losses of a process group; each must be bitwise the expected one."""
    for step, loss in group.leader.losses().items():
        assert loss == expected[step], f"step {step}"
        into[step] = loss


def test_sigterm_to_one_process_saves_on_all_and_resumes_bitwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that gets the notice does no further step before the notice arrives, however long the notice
    takes.
    """
    expected = undisturbed(tmp_path)
    run = document(tmp_path, "root")
    losses: dict[int, float] = {}
    stops = [(7, 1), (19, 0)]
    monkeypatch.setenv("AWAIT_NOTICE", "7,1")
    for group in each_restart(run, tmp_path / "run", module="tests.trainer.support.trouble_child"):
        if not stops:
            assert group.wait() == [ExitCode.DONE] * 2
        else:
            stop = stops.pop(0)
            group.leader.wait_for(seen_step(stop[0] - 1))
            group.signal(signal.SIGTERM, stop[1])
            monkeypatch.setenv("AWAIT_NOTICE", "{},{}".format(*(stops or [(-1, -1)])[0]))
            assert group.wait() == [ExitCode.PREEMPTED] * 2
            reports = [process.report() for process in group.processes]
            assert {report["cause"] for report in reports} == {"preempted"}
            assert reports[0]["step"] == reports[1]["step"] == reports[0]["checkpointStep"] >= stop[0]
        collect(losses, group, expected)
    assert losses == expected
    history = read_history(Store(CheckpointSpec(root=f"file://{tmp_path / 'root'}")))
    assert {row["step"]: row["loss"] for row in history.steps} == expected
    assert [one.ended for one in history.groups] == ["preempted", "preempted", "completed"]
    store = Store(CheckpointSpec(root=f"file://{tmp_path / 'root'}"))
    chain = read_chain(store, list_checkpoints(CheckpointSpec(root=f"file://{tmp_path / 'root'}")).committed)
    assert (chain.damages, sum(link.steps for link in chain.links), chain.links[0].step) == ((), STEPS, STEPS)
    assert unlike_history(chain.links, history.steps) == ()
    changed = [row | {"loss": row["loss"] + 1e-6} if row["step"] == 12 else row for row in history.steps]
    assert len(unlike_history(chain.links, changed)) == 1, "one changed loss is found"


@promises.LAPTOP
@pytest.mark.parametrize("steps", [15, pytest.param(STEPS, marks=pytest.mark.variant)])
def test_one_process_with_four_devices_and_four_processes_with_one_agree(tmp_path: Path, steps: int) -> None:
    four = document(tmp_path, "four-root", steps, slices=1, topology="4x1")
    one = document(tmp_path, "one-root", steps, slices=1, topology="4x1")
    apart = start_processes(four, tmp_path / "four")
    assert apart.wait() == [ExitCode.DONE] * 4
    together = start_processes(one, tmp_path / "one", one_process=True)
    assert together.wait() == [ExitCode.DONE]
    left, right = apart.leader.losses(), together.leader.losses()
    assert sorted(left) == sorted(right) == list(range(1, steps + 1))
    assert [left[step] for step in sorted(left)] == pytest.approx([right[step] for step in sorted(right)], rel=2e-4)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=() if name in EACH_PART else pytest.mark.variant, id=name)
        for name in (*SMALL_FAMILIES, "whisper", "labels", "pairs", "vision", "vision-qwen2")
    ],
)
def test_every_family_resumes_bitwise(tmp_path: Path, model: str) -> None:
    runs = [document(tmp_path, name, 14, slices=1, topology="1x2") for name in ("calm-root", "root")]
    sounds = [clips(tmp_path / "sounds")] if model == "whisper" else []
    family = "qwen2" if model == "vision-qwen2" else "gemma3"
    seen = [images.conversations(tmp_path / "seen", family=family)] if model.startswith("vision") else []
    own = images.sections(tmp_path / "tokenizer", family) if seen else {"model": WHISPER}
    texts = {"labels": labelled, "pairs": paired}.get(model)
    own = own if seen or sounds or texts else sections_of(model)
    for run in runs:
        run["spec"] |= own if texts is None else texts(tmp_path / "texts")
        if model == "pairs":
            evaluation = {"everySteps": 7, "best": {"metric": "accuracy"}}
            run["spec"]["trainer"] |= {"microbatches": 2, "evaluation": evaluation}
        if seen:
            run["spec"]["data"]["sources"] = seen
            run["spec"]["objective"] = {"finetune": {}}
        if sounds:
            run["spec"]["data"]["sources"] = sounds
            tasks = {"files": {"speech": str(tmp_path / "sounds" / "rows.jsonl")}, "most": 2}
            run["spec"]["trainer"]["evaluation"] = {"tasks": tasks}
    calm = start_processes(runs[0], tmp_path / "calm")
    assert calm.wait() == [ExitCode.DONE]
    losses: dict[int, float] = {}
    for number, group in enumerate(each_restart(runs[1], tmp_path / "run")):
        if number == 0:
            group.leader.wait_for(seen_step(6))
            group.signal(signal.SIGTERM, 0)
        assert group.wait() == [ExitCode.PREEMPTED if number == 0 else ExitCode.DONE]
        collect(losses, group, calm.leader.losses())
    assert sorted(losses) == list(range(1, 15))
    assert min(losses.values()) > 0
    if model == "whisper":
        place, clip = f"{tmp_path / 'root'}", f"{tmp_path / 'sounds' / 'clips' / '1.flac'}"
        heard = CliRunner().invoke(app, ["transcribe", clip, "--checkpoint", place, "--json"])
        assert (heard.exit_code, json.loads(heard.stdout)["seconds"]) == (0, 0.15)
        (task,) = (event for event in group.leader.events if event["event"] == "task")
        assert (task["examples"], task["wordErrorRate"] > 0) == (2, True)
        rows = f"speech={tmp_path / 'sounds' / 'rows.jsonl'}"
        again = CliRunner().invoke(app, ["eval", place, "--task", rows, "--most", "2", "--json"])
        assert json.loads(again.stdout)["tasks"][0]["wordErrorRate"] == task["wordErrorRate"]
        told = CliRunner().invoke(app, ["transcribe", f"{tmp_path / 'root' / 'HEAD'}", "--checkpoint", place])
        assert (told.exit_code, "HEAD is no sound that can be read" in told.output) == (
            ExitCode.BAD_CONFIGURATION,
            True,
        )
        deaf = CliRunner().invoke(app, ["sample", place])
        assert "use `halcyon transcribe`" in deaf.output


def test_saves_of_every_kind_are_made_and_the_required_ones_are_kept(tmp_path: Path) -> None:
    """Saves by steps, before evaluations, and permanent ones: the root keeps the two newest and the permanent ones."""
    run = document(tmp_path, "root", 36, slices=1, evaluation={"everySteps": 16, "batches": 1})
    run["spec"]["checkpoint"] |= {
        "save": {"everySteps": 15, "beforeEvaluation": True},
        "permanent": [{"everySteps": 9, "untilStep": 20}],
    }
    group = start_processes(run, tmp_path / "run")
    assert group.wait() == [ExitCode.DONE]
    events = [event for event in group.leader.events if event.get("event") in ("checkpoint", "evaluation")]
    saved = [event["step"] for event in events if event["event"] == "checkpoint"]
    assert saved == [9, 15, 16, 18, 30, 32, 36]
    head = json.loads((tmp_path / "root" / "HEAD").read_text())
    assert [entry["step"] for entry in head["committed"]] == [36, 32, 18, 9]


def test_the_interval_of_a_run_with_automatic_saves_is_shown(tmp_path: Path) -> None:
    run = document(tmp_path, "root", slices=1)
    run["spec"]["checkpoint"]["save"] = {"auto": True}
    group = start_processes(run, tmp_path / "run")
    assert group.wait() == [ExitCode.DONE]
    assert group.leader.report()["progress"]["saveIntervalSeconds"] > 1
    saved = [event["step"] for event in group.leader.events if event.get("event") == "checkpoint"]
    assert saved == [STEPS], "a short run needs no save before its end"


@promises.SAME_LOSSES
def test_an_average_resumes_bitwise_through_sigkill_and_is_evaluated_and_exported(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"slices": 1, "evaluation": {"everySteps": 6, "batches": 1}}
    runs = [document(tmp_path, name, 12, **settings) for name in ("calm-root", "root")]
    for run in runs:
        run["spec"]["average"] = {"ema": {"decay": 0.8}}
    calm = start_processes(runs[0], tmp_path / "calm")
    assert calm.wait() == [ExitCode.DONE]
    losses: dict[int, float] = {}
    for number, group in enumerate(each_restart(runs[1], tmp_path / "run")):
        if number == 0:
            group.leader.wait_for(seen_step(7))
            group.signal(signal.SIGKILL, 0)
        assert group.wait() == [-signal.SIGKILL if number == 0 else ExitCode.DONE]
        collect(losses, group, calm.leader.losses())
    assert sorted(losses) == list(range(1, 13))
    first, second = (newest_checkpoint(tmp_path / name) for name in ("calm-root", "root"))
    assert list(compare(first, second)) == []
    last = [event for event in calm.leader.events if event.get("event") == "evaluation"][-1]
    assert last["averageLoss"] > 0
    assert last["averageLoss"] != last["loss"]
    assert exported(tmp_path / "root", tmp_path / "average", "average") != exported(
        tmp_path / "root", tmp_path / "model", "model"
    )
    model, _ = halcyon.load(str(tmp_path / "root"), weights="average")
    norm = second.array(second.leaves["average.model.norm.weight"])
    assert np.array_equal(np.asarray(model.norm.weight.array), norm)


def newest_checkpoint(root: Path) -> Checkpoint:
    store = Store(address(str(root)))
    return Checkpoint(store, entry_of(store, None))


def exported(root: Path, folder: Path, weights: str) -> bytes:
    done = CliRunner().invoke(
        app, ["export", "hf", str(root), str(folder), "--weights", weights], env={"COLUMNS": "300"}
    )
    assert done.exit_code == 0, done.stderr
    return (folder / "model.safetensors").read_bytes()


@promises.SAME_LOSSES
@pytest.mark.parametrize("moment", ["after", pytest.param("before", marks=pytest.mark.variant)])
def test_a_run_that_is_killed_while_it_goes_back_ends_like_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Batch 8 is bad, so step 9 is: the run goes back to step 5 and leaves out batches 5 to 8."""
    runs = [document(tmp_path, name, 12, slices=1) for name in ("calm-root", "root")]
    for run in runs:
        run["spec"]["recovery"] = {"divergence": {"nonFinite": "rollback"}}
    module = "tests.trainer.support.rollback_child"
    monkeypatch.setenv("POISON", "8")
    calm = start_processes(runs[0], tmp_path / "calm", module=module)
    assert calm.wait() == [ExitCode.DONE]
    back = [event for event in calm.leader.events if event.get("event") == "rolledBack"]
    assert [(event["step"], event["toStep"], event["batches"]) for event in back] == [(9, 5, 4)]
    monkeypatch.setenv("KILL", moment)
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    losses: dict[int, float] = {}
    for number, group in enumerate(each_restart(runs[1], tmp_path / "run", module=module)):
        assert group.wait() == [-signal.SIGKILL if number == 0 else ExitCode.DONE]
        losses |= group.leader.losses()
    assert losses == calm.leader.losses()
    first, second = (newest_checkpoint(tmp_path / name) for name in ("calm-root", "root"))
    assert list(compare(first, second)) == []
    positions = [one.manifest.data_position for one in (first, second)]
    assert positions[0].sequences == positions[1].sequences == (12 + 4) * 8
    assert [(one.step, one.batches) for one in positions[1].skipped] == [(5, 4)]


@pytest.mark.variant
def test_a_return_past_a_spike_takes_the_best_evaluation_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 9 is a spike: the run goes back to step 5.

    The evaluation of step 8 is made again, and counts once; its history is that too.
    """
    best = {"minImprovement": 100.0, "patience": 9}
    runs = [
        document(tmp_path, name, 14, slices=1, evaluation={"everySteps": 4, "batches": 1, "best": best})
        for name in ("calm-root", "root")
    ]
    for run in runs:
        run["spec"]["data"]["validation"] = {"fraction": 0.1}
        run["spec"]["recovery"] = {"divergence": {"spike": {"sigmas": 1, "windowSteps": 8, "action": "rollback"}}}
    module = "tests.trainer.support.rollback_child"
    monkeypatch.setenv("POISON", "8")
    monkeypatch.setenv("SPIKE", "1")
    calm = start_processes(runs[0], tmp_path / "calm", module=module)
    assert calm.wait() == [ExitCode.DONE], calm.leader.noise[-20:]
    assert [event["toStep"] for event in calm.leader.events if event.get("event") == "rolledBack"] == [5]
    evaluations = [(event["step"], event["loss"]) for event in calm.leader.events if event.get("event") == "evaluation"]
    assert [step for step, _ in evaluations] == [4, 8, 8, 12, 14]
    assert evaluations[1] != evaluations[2], "the batches are others"
    monkeypatch.setenv("KILL", "after")
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    for number, group in enumerate(each_restart(runs[1], tmp_path / "run", module=module)):
        assert group.wait() == [-signal.SIGKILL if number == 0 else ExitCode.DONE]
    assert list(compare(*(newest_checkpoint(tmp_path / name) for name in ("calm-root", "root")))) == []
    for name, losses in (("calm-root", dict(evaluations)), ("root", dict(evaluations))):
        store = Store(address(str(tmp_path / name)))
        record = entry_of(store, None).evaluation
        assert record is not None
        assert (record.best_step, record.evaluated_step, record.without_improvement) == (4, 14, 3)
        assert 4 in [entry.step for entry in list_checkpoints(store.place).committed]
        history = read_history(store)
        assert {row["step"]: row["loss"] for row in history.evaluations} == losses
        assert [row["step"] for row in history.steps] == list(range(1, 15))
    (group_of_calm,) = read_history(Store(address(str(tmp_path / "calm-root")))).groups
    assert group_of_calm.repeated == 4
    assert group_of_calm.seconds.lost_work > 0
