"""`halcyon replay` computes steps again from a checkpoint: the same bits, or the first step that differs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.host.storage.store import Store
from halcyon.run.policy.rollouts import find, names_in, write_rollout
from halcyon.run.replay import ComparedNumbers, rounding_of
from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_api.replays import REPLAY_KEY, ReplayRecord, replay_document
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.document_changes import changed
from tests.families import SMALL_FAMILIES, sections_of
from tests.ports import free_port
from tests.suite import promises
from tests.suite.limits import limit
from tests.trainer.run.test_policy_run import AHEAD
from tests.trainer.run.test_policy_run import STEPS as STEPS_OF_POLICY
from tests.trainer.run.test_policy_run import document_of as policy_document
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.support.speech import WHISPER, clips
from tests.trainer.weights.test_lora import document as adapter_document

STEPS, EVERY = 20, 5


def run(folder: Path, **changes: Any) -> Path:
    """A run document with all its checkpoints kept."""
    document = run_document(folder / "root", slices=1, steps=STEPS, batchSize=4, sequenceLength=32)
    wanted = {"spec.checkpoint.keep": 10, "spec.telemetry": {}} | changes
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(changed(document, wanted)))
    return path


def with_wrong_bit(step: int) -> dict[str, Any]:
    """A bit changes after a step. No audit can find it: there is one copy of the state."""
    return {"spec.recovery": {"audit": {"everySteps": STEPS, "flipBit": {"step": step, "process": 0}}}}


def halcyon(
    *words: object, module: str = "halcyon.commands.main", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=limit(180),
        check=False,
    )


def trained(path: Path, **variables: str) -> None:
    module = "tests.trainer.support.faulty_child" if variables else "halcyon.commands.main"
    ended = halcyon("train", path, "--json", module=module, **variables)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]


def replayed(path: Path, *words: object) -> tuple[int, dict[str, Any]]:
    ended = halcyon("replay", path, "--json", *words)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.slow
@promises.REPLAYED
def test_a_replay_has_the_bits_of_the_run_and_leaves_its_root_as_it_is(tmp_path: Path) -> None:
    path = run(tmp_path)
    trained(path)
    files = {one: one.stat().st_mtime_ns for one in (tmp_path / "root").rglob("*") if one.is_file()}
    code, found = replayed(path, "--from", EVERY)
    assert (code, found["identical"], found["to"]) == (0, True, 2 * EVERY)
    assert (found["comparedSteps"], found["stateCompared"], found["differentArrays"]) == (EVERY, True, [])
    code, found = replayed(path, "--from", EVERY, "--to", STEPS - 2)
    assert (code, found["comparedSteps"], found["stateCompared"]) == (0, STEPS - 2 - EVERY, False)
    record, statement = tmp_path / "replay.json", tmp_path / "statement.json"
    code, found = replayed(path, "--from", EVERY, "--record", record)
    assert (code, json.loads(record.read_text())) == (0, found)
    proved = halcyon("prove", path, "--replay", record, "--output", statement)
    assert (proved.returncode, proved.stderr) == (0, "")
    checked = halcyon("prove", path, "--check", statement)
    verdict = f"steps {EVERY + 1} to {2 * EVERY} were replayed on {found['hardware']} at {found['time']}: identical"
    assert (checked.returncode, verdict in checked.stdout) == (0, True), checked.stdout
    assert {one: one.stat().st_mtime_ns for one in (tmp_path / "root").rglob("*") if one.is_file()} == files
    other = halcyon("replay", path, "--from", EVERY, "--set", "spec.trainer.seed=7")
    assert other.stderr.startswith("the document is not that of the run: spec.trainer.seed is 7 but was 0")
    target = next((tmp_path / "root").glob(f"steps/{2 * EVERY:012d}.*/data"))
    array = next(one for one in sorted(target.rglob("c/**/*")) if one.is_file())
    array.write_bytes(array.read_bytes()[:-1])
    code, found = replayed(path, "--from", EVERY)
    assert (code, found["identical"], found["firstDifferentStep"]) == (1, False, None), "its bytes are read"
    assert "bytes instead of" in found["differences"][0]


@pytest.mark.slow
@promises.REPLAYED
@pytest.mark.parametrize("lie", [pytest.param(7, marks=pytest.mark.variant), 10])
def test_a_replay_finds_the_step_after_which_one_bit_was_wrong(lie: int, tmp_path: Path) -> None:
    path = run(tmp_path, **with_wrong_bit(lie))
    trained(path)
    for first in range(EVERY, STEPS, EVERY):
        code, found = replayed(path, "--from", first)
        within = first < lie <= first + EVERY
        assert (code, found["identical"]) == ((1, False) if within else (0, True)), first
        if within:
            assert found["firstDifferentStep"] == (lie + 1 if lie < first + EVERY else None)
            assert found["differentArrays"]
    said = halcyon("replay", path, "--from", (lie - 1) // EVERY * EVERY)
    assert said.stdout.startswith(f"different: steps {(lie - 1) // EVERY * EVERY + 1} to ")


@pytest.mark.slow
@promises.REPLAYED
def test_a_replay_finds_the_step_whose_batch_had_a_wrong_bit(tmp_path: Path) -> None:
    """No audit can: all slices compute the same from that batch."""
    path = run(tmp_path, **{"spec.recovery": {"audit": {"everySteps": EVERY}}})
    trained(path, FAULT="batch", FAULT_STEP=str(EVERY + 2))
    code, found = replayed(path, "--from", EVERY)
    assert (code, found["identical"], found["firstDifferentStep"]) == (1, False, EVERY + 2)
    code, found = replayed(path, "--from", 2 * EVERY)
    assert (code, found["identical"]) == (0, True)


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_every_family_replays_and_its_audits_find_nothing(family: str, tmp_path: Path) -> None:
    """An audit that found something would end the training with another exit code."""
    parts = {"spec.accelerator.topology": "1x2", "spec.mesh": {"ici": {"data": 2, "fsdp": 1}}}
    audited = {"spec.recovery": {"audit": {"everySteps": EVERY}}}
    path = run(tmp_path, **parts, **audited, **{f"spec.{name}": part for name, part in sections_of(family).items()})
    trained(path)
    code, found = replayed(path, "--from", EVERY)
    assert (code, found["identical"], found["differentArrays"]) == (0, True, [])


def lora(folder: Path) -> dict[str, Any]:
    return adapter_document(folder / "root")


def coded(folder: Path) -> dict[str, Any]:
    return changed(lora(folder), {"spec.adapter.lora.base": "nf4"})


def further_tokens(folder: Path) -> dict[str, Any]:
    saves = {"spec.checkpoint.save": {"everySteps": EVERY}, "spec.trainer.steps": STEPS}
    return changed(run_document(folder / "root"), {"spec.model.numNextnPredictLayers": 1} | saves)


def speech(folder: Path) -> dict[str, Any]:
    parts = {"spec.model": WHISPER, "spec.data.sources": [clips(folder / "sounds")]}
    saves = {"spec.checkpoint.save": {"everySteps": EVERY}, "spec.trainer.steps": STEPS}
    return changed(run_document(folder / "root"), parts | saves)


def preferences(folder: Path) -> dict[str, Any]:
    """DPO, beside the weights of a published model, which are the reference."""
    found = adapter_document(folder / "root")
    spec = found["spec"]
    del spec["adapter"]
    rows = folder / "pairs.jsonl"
    rows.write_text("".join(json.dumps(pair(number)) + "\n" for number in range(24)))
    spec["data"] = {"sources": [{"name": "pairs", "jsonl": {"paths": [str(rows)]}, "format": {"preference": {}}}]}
    spec["objective"] = {"preference": {"dpo": {}}}
    return found


def pair(number: int) -> dict[str, Any]:
    question = {"role": "user", "content": f"{number}?"}
    return {
        "chosen": [question, {"role": "assistant", "content": f"yes {number}"}],
        "rejected": [question, {"role": "assistant", "content": "no"}],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "first"),
    [
        pytest.param(lora, EVERY),
        pytest.param(policy_document, 3, marks=pytest.mark.variant),
        pytest.param(preferences, EVERY, marks=pytest.mark.variant),
        pytest.param(coded, EVERY, marks=pytest.mark.variant),
        pytest.param(further_tokens, EVERY, marks=pytest.mark.variant),
        pytest.param(speech, EVERY, marks=pytest.mark.variant),
    ],
)
def test_runs_with_other_objectives_replay(made: Callable[[Path], dict[str, Any]], first: int, tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(changed(made(tmp_path), {"spec.checkpoint.keep": 10})))
    trained(path)
    code, found = replayed(path, "--from", first)
    assert (code, found["identical"], found["stateCompared"], found["differentArrays"]) == (0, True, True, [])
    assert found["comparedSteps"] == found["to"] - first


@pytest.mark.slow
@promises.REPLAYED
def test_a_replay_of_answers_that_were_sampled_ahead_names_what_was_changed_in_the_root(tmp_path: Path) -> None:
    """Batches 3 and 4 are read in the root, because their weights are gone; batches 5 to 7 are sampled again."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(changed(policy_document(tmp_path, AHEAD), {"spec.checkpoint.keep": 10})))
    trained(path)
    store = Store(CheckpointSpec(root=f"file://{tmp_path / 'root'}"))
    names = {name.batch: name for name in names_in(store)}

    for batch, field, change, says in (
        (
            5,
            "tokens",
            lambda rows: [*rows[:2], [rows[2][0] ^ 1, *rows[2][1:]], *rows[3:]],
            "has other tokens from prompt 0 on",
        ),
        (
            4,
            "rewards",
            lambda rows: [[rows[0][0] + 1, *rows[0][1:]], *rows[1:]],
            "is not what was written: the chain of",
        ),
        (
            6,
            "version",
            lambda one: one - 1,
            "no answers to batch 6 by the weights of step 4; there are those of step 3",
        ),
    ):
        kept = find(store, batch, names[batch].version)[1]
        data = (tmp_path / "root" / names[batch].key).read_bytes()
        new = replace(kept, **{field: change(getattr(kept, field))})
        key = names[batch]._replace(version=new.version)
        store.delete(names[batch].key)
        write_rollout(store, key, new)
        ended = halcyon("replay", path, "--json", "--from", 3)
        if batch == 4:  # it is read: its weights are gone
            assert (ended.returncode, says in ended.stderr) == (1, True), ended.stderr
        else:
            found = json.loads(ended.stdout)
            assert (ended.returncode, found["identical"], found["firstDifferentStep"]) == (1, False, batch + 1)
            assert says in found["differences"][0]
        if field == "version":  # the checkpoint of step 6 names it
            checked = halcyon("checkpoints", "verify", path)
            assert (checked.returncode, f"{names[batch].key} is missing" in checked.stdout) == (1, True), checked.stdout
        store.delete(key.key)
        store.write(names[batch].key, data)
    code, found = replayed(path, "--from", 3)
    assert (code, found["identical"], found["comparedSteps"]) == (0, True, STEPS_OF_POLICY - 3)


@pytest.mark.slow
@promises.REPLAYED
def test_another_mesh_is_said_first_and_compared_within_measured_rounding(tmp_path: Path) -> None:
    def replayed_elsewhere(folder: Path, **changes: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        folder.mkdir()
        mesh = {"spec.accelerator.topology": "1x2", "spec.mesh": {"ici": {"data": 1, "fsdp": 2}}}
        path = run(folder, **mesh, **changes)
        trained(path)
        elsewhere = {"spec.mesh": {"ici": {"data": 1, "fsdp": 1, "tensor": 2}}}
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), elsewhere)))
        ended = halcyon("replay", path, "--from", EVERY, "--json")
        assert ended.stdout, ended.stderr
        return ended, json.loads(ended.stdout)

    ended, found = replayed_elsewhere(tmp_path / "right")
    assert "the mesh of the run had fsdp 2 instead of 1, tensor 1 instead of 2, so bits may differ" in ended.stderr
    assert (ended.returncode, found["identical"]) == (0, False)
    assert 0 < found["rounding"]["largest"] < 4 * found["rounding"]["measured"] < 1e-3

    ended, found = replayed_elsewhere(tmp_path / "wrong", **with_wrong_bit(EVERY + 1))
    assert (ended.returncode, found["rounding"], found["identical"]) == (1, None, False), "rounding is no wrong bit"


@pytest.mark.slow
@promises.REPLAYED
def test_a_replay_that_is_preempted_goes_on_and_forgets_nothing_that_it_has_found(tmp_path: Path) -> None:
    path = run(tmp_path, **with_wrong_bit(EVERY + 1))
    trained(path)
    document = replay_document(
        parse_run(yaml.safe_load(path.read_text())).document(), EVERY, STEPS,
        name="again", root=f"file://{tmp_path}/again", cache=f"file://{tmp_path}/root/data",
    )  # fmt: skip
    document["spec"]["telemetry"]["port"] = free_port()
    stopped = start_processes(document, tmp_path / "first")
    stopped.leader.wait_for(lambda events: any(event["event"] == "step" and event["step"] >= 8 for event in events))
    stopped.signal(signal.SIGTERM, 0)
    first = stopped.ended().leader
    assert first.report()["cause"] == "preempted", first.output_tail()
    second = start_processes(document, tmp_path / "second", attempt=2).ended().leader
    report = second.report()
    assert (report["cause"], report["exitCode"]) == ("replayDiffers", ExitCode.REPLAY_DIFFERS), second.output_tail()
    assert report["message"].startswith(f"different: steps {EVERY + 1} to {STEPS} do not have the bits of the run")
    assert min(second.losses()) > EVERY + 2, "the first step that differs was computed by the first process"
    record = json.loads((tmp_path / "again" / REPLAY_KEY).read_text())
    assert (record["firstDifferentStep"], record["comparedSteps"]) == (EVERY + 2, STEPS - EVERY)


@pytest.mark.slow
def test_a_replay_of_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    path = run(tmp_path, **{"spec.trainer.steps": EVERY})
    trained(path)
    for words, sentence in (
        (("--from", EVERY, "--to", EVERY + 1), f"--to: {EVERY + 1} must be a step from {EVERY + 1} to {EVERY}"),
        (("--from", 3), f"file://{tmp_path}/root has no checkpoint of step 3; there are 5"),
        (
            ("--from", EVERY),
            f"--from: file://{tmp_path}/root has no checkpoint after step 5; name the last step in --to",
        ),
    ):
        ended = halcyon("replay", path, *words)
        assert (ended.returncode, ended.stderr) == (ExitCode.BAD_CONFIGURATION, f"{sentence}\n")


def record(compared: int, *, state: bool = False) -> ReplayRecord:
    document = {"run": "tests/run", "identical": True, "from": 3, "to": 6, "comparedSteps": compared, "hardware": ""}
    more = {"stateCompared": state, "versions": {}, "time": "2026-03-01T12:00:00Z"}
    return ReplayRecord.model_validate_json(json.dumps(document | more))


def test_a_replay_confirms_only_what_it_has_compared() -> None:
    said: list[str] = []
    numbers = ComparedNumbers({5: {"loss": 1.0}, 6: {"loss": 1.0, "gradientNorm": 2.0}}, said.append)
    for step in (4, 5, 6):
        numbers.add(step, 1.0, 2.0)
    assert (numbers.compared, said) == (1, []), "step 4 has no numbers, and step 5 has not all of them"
    numbers.goes_on(6, record(0))
    assert numbers.compared == 0, "an earlier process that found nothing has compared nothing"
    assert not record(0).confirms
    assert next(record(0).sentences()).startswith("not compared: 0 of 3 steps compared")
    assert next(record(1).sentences()).startswith("identical: 1 of 3 steps compared")
    assert record(1).confirms
    assert record(0, state=True).confirms


@pytest.mark.parametrize(
    ("there", "again", "found"),
    [
        ([2.0, 1.5, 1.0], [2.0, 1.5, 1.0], (0.0, 2.0**-22)),
        ([2.0, 1.5, 1.25], [2.0, 1.625, 1.0], (0.25, 0.125)),
        ([2.0, 1.25, 1.0], [2.0, 1.5, 1.125], None),
        ([2.0, 2.0001, 1.0], [2.0, 1.5, 1.0], None),
        ([2.0, float("nan"), 1.0], [2.0, 1.625, 1.0], None),
        ([2.0, 1.5, 1.0], [2.0, float("nan"), 1.0], None),
    ],
)
def test_rounding_explains_a_few_times_what_was_measured_up_to_a_step(
    there: list[float], again: list[float], found: tuple[float, float] | None
) -> None:
    numbers = [dict(enumerate(losses, 1)) for losses in ([2.0, 1.5, 1.0], there, again)]
    rounding = rounding_of(*numbers)
    assert (None if rounding is None else (rounding.largest, rounding.measured)) == found


@pytest.mark.parametrize(("here", "there"), [({}, {}), ({2: 1.0}, {1: 1.0, 2: 1.0})])
def test_steps_whose_losses_are_not_known_are_not_explained(here: dict[int, float], there: dict[int, float]) -> None:
    assert rounding_of(here, there, dict(there)) is None
