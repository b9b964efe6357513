"""A run that learns from rewards, killed by SIGKILL inside a rollout or between rollout and step, goes on with the same
bits.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from halcyon.host.storage.store import Store
from halcyon.run.policy.rollouts import RolloutName, names_in
from halcyon.telemetry.history.samples import read_samples, sampled_steps
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.families import llama
from tests.trainer.support.process_groups import each_restart, run_document, start_processes

pytestmark = pytest.mark.slow

MODULE = "tests.trainer.support.policy_child"
STEPS = 6
NUMBERS = (
    "loss",
    "gradientNorm",
    "reward",
    "rewardDeviation",
    "answerTokens",
    "entropy",
    "clippedTokens",
    "mismatchMax",
)
TWICE = {"updatesPerRollout": 2}
AHEAD = {"delaySteps": 2}


def document_of(folder: Path, policy: Mapping[str, Any] = MappingProxyType(TWICE)) -> dict[str, Any]:
    """Two steps with each sampler, and a checkpoint between them, at step 3."""
    rows = folder / "rows.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    asked = ({"question": f"{number} and {number * 7 % 10}?", "answer": "x" * (number % 3)} for number in range(12))
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    found = run_document(folder / "root", slices=1, topology="1x2", steps=STEPS, batchSize=8, sequenceLength=24)
    spec = found["spec"]
    spec["trainer"]["evaluation"] = {"everySteps": STEPS, "batches": 1}
    spec["model"] = llama(1, 16, 24, 2)
    form = {"prompt": {"field": "question", "referenceField": "answer", "template": "{{ messages[0]['content'] }}"}}
    spec["data"] = {
        "sources": [{"name": "asked", "jsonl": {"paths": [str(rows)]}, "format": form}],
        "validation": {"fraction": 0.3},
    }
    spec["objective"] = {"policy": {"reward": f"{MODULE}:different", "groupSize": 4, "maxTokens": 8, **policy}}
    spec["optimizer"] = {"learningRate": 0.01, "schedule": {"constant": {}}, "adamw": {}}
    spec["checkpoint"]["save"] = {"everySteps": 3}
    spec["recovery"] = {"audit": {"everySteps": 3}}
    return found


def numbers(events: list[dict[str, Any]]) -> dict[int, tuple[float, ...]]:
    return {event["step"]: tuple(event[name] for name in NUMBERS) for event in events if event["event"] == "step"}


def rollouts(folder: Path, steps: int = STEPS) -> list[str]:
    """The hash of the answers of each step."""
    store = Store(CheckpointSpec(root=f"file://{folder / 'root'}"))
    assert sampled_steps(store)[:steps] == list(range(1, steps + 1))
    return [found.sha256 for step in range(1, steps + 1) if (found := read_samples(store, step)) is not None]


Run = tuple[Path, list[dict[str, Any]]]


def undisturbed(folder: Path, policy: Mapping[str, Any]) -> Run:
    group = start_processes(document_of(folder, policy), folder / "log", module=MODULE)
    assert group.wait() == [ExitCode.DONE], group.leader.output_tail()
    return folder, group.leader.events


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run."""
    return undisturbed(tmp_path_factory.mktemp("calm"), TWICE)


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run that samples two steps ahead."""
    return undisturbed(tmp_path_factory.mktemp("ahead"), AHEAD)


def test_the_numbers_of_a_run_are_reported(calm: Run) -> None:
    folder, events = calm
    found = numbers(events)
    assert sorted(found) == list(range(1, STEPS + 1))
    assert all(found[step][6] == 0 for step in (1, 3, 5))  # the weights that sampled are the trained ones
    assert {one[7] for one in found.values()} == {0}  # the trainer's forward pass drew the answers
    assert len(set(rollouts(folder))) == STEPS
    (evaluated,) = [event for event in events if event["event"] == "evaluation"]
    assert evaluated["loss"] == -evaluated["reward"]
    assert list(evaluated["passAt"]) == ["1", "2", "4"]


@pytest.mark.parametrize("moment", ["rollout:4", pytest.param("step:4", marks=pytest.mark.variant)])
def test_a_killed_run_has_the_same_losses_and_the_same_rollouts(
    moment: str, calm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed at its fifth step and goes on from the third: the fourth is sampled by weights that only the
    checkpoint has.
    """
    check_killed(moment, TWICE, calm, tmp_path, monkeypatch)


@pytest.mark.parametrize("moment", ["rollout:6", pytest.param("step:6", marks=pytest.mark.variant)])
def test_a_killed_run_with_a_delay_has_the_same_losses_and_the_same_rollouts(
    moment: str, ahead: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed in its fifth step, while it samples batch 6, and goes on from the third: the weights that sampled its
    batches 3 and 4 are in no checkpoint.
    """
    names = [(one.batch, one.version) for one in kept_in(ahead[0])]
    assert names == [(batch, max(0, batch - 2)) for batch in range(STEPS + 2)]
    assert any(of_step[6] > 0 for of_step in numbers(ahead[1]).values()), "other weights have sampled"
    check_killed(moment, AHEAD, ahead, tmp_path, monkeypatch)


def test_a_run_ends_if_the_engine_and_the_trainer_differ_by_more_than_its_limit(tmp_path: Path) -> None:
    document = document_of(tmp_path, {"mismatchLimit": 1e-12, "exact": False})
    group = start_processes(document, tmp_path / "log", module=MODULE)
    assert group.wait() == [ExitCode.DIVERGED]
    message = group.leader.report()["message"]
    assert message.startswith("step 1: the log-probability of a sampled token differs by ")
    assert "more than objective.policy.mismatchLimit (1e-12); compute in float32, or raise the limit" in message


def kept_in(folder: Path) -> list[RolloutName]:
    return sorted(names_in(Store(CheckpointSpec(root=f"file://{folder / 'root'}"))))


def check_killed(
    moment: str, policy: Mapping[str, Any], calm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILL", moment)
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    found: dict[int, tuple[float, ...]] = {}
    codes: list[int] = []
    resumed: list[int] = []
    for group in each_restart(document_of(tmp_path, policy), tmp_path / "log", module=MODULE):
        codes += group.wait()
        found |= numbers(group.leader.events)
        resumed += [event["step"] for event in group.leader.events if event["event"] == "restored"]
    assert codes == [-signal.SIGKILL, ExitCode.DONE]
    assert resumed == [0, 3]
    folder, events = calm
    assert found == numbers(events)
    assert rollouts(tmp_path) == rollouts(folder)
    assert [event["loss"] for event in group.leader.events if event["event"] == "evaluation"] == [
        event["loss"] for event in events if event["event"] == "evaluation"
    ]
