"""A run whose answers are conversations with an environment that no one can repeat: a killed run and a replay read its
words in the root.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from halcyon.host.storage.store import Store
from halcyon.run.policy.rollouts import find, names_in, write_rollout
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.run.test_policy_run import STEPS, document_of, numbers
from tests.trainer.support.process_groups import each_restart, start_processes

pytestmark = pytest.mark.slow

MODULE = "tests.trainer.support.policy_child"
TALKS = {
    "reward": "tests.trainer.support.environments:random_words",
    "maxTokens": 12,
    "delaySteps": 2,
    "environment": {"arguments": {}},
}


@pytest.fixture(autouse=True)
def many_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDS", "64")


PATCH = """\
import sys
if "train" in sys.orig_argv:
    from halcyon.run.policy import sampling
    sampling._ends = lambda *_: tuple(range(64))
"""


def replay(path: Path) -> dict[str, Any]:
    """What a replay from step 3 prints; its process has the same ends of answers as the run."""
    (path.parent / "sitecustomize.py").write_text(PATCH)
    return json.loads(
        subprocess.run(
            [sys.executable, "-m", "halcyon.commands.main", "replay", path, "--from", "3", "--json"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(path.parent), os.environ.get("PYTHONPATH", "")))},
            capture_output=True,
            text=True,
            timeout=limit(300),
            check=False,
        ).stdout
    )


def document(folder: Path, **policy: Any) -> dict[str, Any]:
    found = document_of(folder, {**TALKS, **policy})
    form = found["spec"]["data"]["sources"][0]["format"]["prompt"]
    form["template"] = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return found


def test_a_replay_reads_the_words_of_an_environment_and_names_those_that_were_changed(tmp_path: Path) -> None:
    """Of its words nothing is computed again: the same steps with the same losses."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(tmp_path)))
    group = start_processes(document(tmp_path), tmp_path / "log", module=MODULE)
    assert group.wait() == [ExitCode.DONE], group.leader.output_tail()
    store = Store(CheckpointSpec(root=f"file://{tmp_path / 'root'}"))
    kept = [find(store, name.batch, name.version)[1] for name in sorted(names_in(store))]
    assert len(kept) == STEPS + 2
    answers = [answer for one in kept for answer in zip(one.tokens, one.sampled, one.counts, one.outcomes, strict=True)]
    talked = [own[:count] for _, own, count, _ in answers if not all(own[:count])]
    assert talked, "some answers have words of the environment"
    assert {kind for *_, (kind, _) in answers} == {"answered", "tooLong"}
    assert max(one["tooLongAnswers"] for one in group.leader.events if one["event"] == "step") > 0

    found = replay(path)
    assert (found["identical"], found["comparedSteps"]) == (True, STEPS - 3)

    name = next(one for one in names_in(store) if one.batch == 6)
    one = find(store, name.batch, name.version)[1]
    row = next(
        row for row, (own, count) in enumerate(zip(one.sampled, one.counts, strict=True)) if not all(own[:count])
    )
    place = one.sampled[row].index(False)
    changed = [list(tokens) for tokens in one.tokens]
    changed[row][place] ^= 1
    store.delete(name.key)
    write_rollout(store, name, replace(one, tokens=changed))
    assert replay(path)["firstDifferentStep"] == 7


def test_a_killed_run_reads_the_words_that_it_has_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed in its fifth step and goes on from the third. The answers of batches 3 and 4 are those of its first
    life, and their rewards those of the steps.
    """
    monkeypatch.setenv("KILL", "rollout:6")
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    codes: list[int] = []
    for group in each_restart(document(tmp_path), tmp_path / "log", module=MODULE):
        codes += group.wait()
    assert codes == [-signal.SIGKILL, ExitCode.DONE], group.leader.output_tail()
    rewards = {step: found[2] for step, found in numbers(group.leader.events).items()}
    assert sorted(rewards) == list(range(4, STEPS + 1))
    store = Store(CheckpointSpec(root=f"file://{tmp_path / 'root'}"))
    starts = min(one.start for one in names_in(store))
    for batch in (3, 4):
        (name,) = [one for one in names_in(store) if one.batch == batch]
        kept = find(store, batch, name.version)[1]
        counted = [kind == "answered" for kind, _ in kept.outcomes]
        heard = np.array(kept.rewards).ravel()[counted]
        assert (name.start, rewards[batch + 1]) == (starts, pytest.approx(heard.mean(), abs=1e-12))


@pytest.mark.variant
def test_two_hosts_and_a_sampler_hear_the_same_words(tmp_path: Path) -> None:
    """Process 0 has the environment, and tells the other one its words; so does a sampler of a pool. Its function says
    the same each time, so all ways to sample give the same losses, also if its process is lost.
    """
    same = {"reward": "tests.trainer.support.environments:same_words"}
    alone = start_processes(document(tmp_path / "alone", **same), tmp_path / "alone" / "log", module=MODULE)
    assert alone.wait() == [ExitCode.DONE], alone.leader.output_tail()
    hosts = document(tmp_path / "hosts", **same)
    hosts["spec"]["accelerator"] |= {"slices": 2, "topology": "1x1"}
    both = start_processes(hosts, tmp_path / "hosts" / "log", module=MODULE)
    assert both.wait() == [ExitCode.DONE] * 2, both.leader.output_tail()
    pool = document(tmp_path / "pool", **same, sampledBy="samplers")
    run = start_processes(pool, tmp_path / "pool" / "log", module=MODULE)
    pool["metadata"]["name"] = "sampler"
    pool["spec"] |= {"task": "sample", "telemetry": {"port": free_port()}}
    sampler = start_processes(pool, tmp_path / "pool" / "sampler", module=MODULE)
    assert run.wait() == [ExitCode.DONE], run.leader.output_tail()
    assert sampler.wait() == [ExitCode.DONE], sampler.leader.output_tail()
    lost = document(tmp_path / "lost", **same, environment={"arguments": {"mark": str(tmp_path / "mark")}})
    again = start_processes(lost, tmp_path / "lost" / "log", module=MODULE)
    assert again.wait() == [ExitCode.DONE], again.leader.output_tail()
    assert (tmp_path / "mark").exists()
    expected = numbers(alone.leader.events)
    assert numbers(again.leader.events) == expected
    assert numbers(run.leader.events) == expected
    for step, found in numbers(both.leader.events).items():
        assert found == pytest.approx(expected[step], rel=1e-4, abs=1e-6)
