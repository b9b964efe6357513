"""`kubectl halcyon replay`: a run of task ``replay`` computes steps of another run again, and its end says what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.replays import REPLAY_KEY
from halcyon_demo.comparison import Loss
from halcyon_demo.training import RESOURCE
from tests.cluster.whole_path import SAVE_EVERY, STEPS, WholePath
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.xdist_group("path")]

FIRST, LAST = STEPS - SAVE_EVERY, STEPS


def plugin(path: WholePath, *words: object) -> str:
    """Output of `kubectl-halcyon replay` in the namespace of the runs."""
    command = [str(Path(sys.executable).with_name("kubectl-halcyon")), "replay", *map(str, words)]
    ended = subprocess.run(
        [*command, "--namespace", path.place.runs],
        env=os.environ | {"KUBECONFIG": str(path.devcluster.cluster.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=limit(60),
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@promises.REPLAYED
def test_a_replay_in_the_cluster_proves_steps_and_finds_another_number(
    path: WholePath, undisturbed: list[Loss]
) -> None:
    del undisturbed  # the run that is computed again
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)
    name, other = f"undisturbed-replay-{FIRST}", "undisturbed-changed"
    try:
        assert plugin(path, "undisturbed", "--from", FIRST).startswith(
            f"{name} computes the steps after {FIRST} again\n"
        )
        document: dict[str, Any] = json.loads(kubectl("get", RESOURCE, name, *where, "--output=json"))
        replay = path.training_of(document)
        run = replay.wait_for_phase("Succeeded")
        ready = run.status.condition("Ready")
        assert ready is not None
        assert ready.message.startswith(f"steps {FIRST + 1} to {LAST} of run undisturbed are confirmed")
        with path.root(name) as root:
            record = json.loads(bytes(root.get(REPLAY_KEY).bytes()))
        assert (record["identical"], record["stateCompared"], record["comparedSteps"]) == (True, True, SAVE_EVERY)
        assert f"proved: steps {FIRST + 1} to {LAST}\n" in plugin(path, "undisturbed")

        spec = document["spec"] | {"optimizer": {**document["spec"]["optimizer"], "learningRate": 0.00299}}
        spec["checkpoint"] = spec["checkpoint"] | {"root": spec["checkpoint"]["root"].replace(name, other)}
        spec["from"] = spec["from"] | {"toStep": FIRST + 5}
        labels = document["metadata"]["labels"]
        changed = path.training_of(
            {**document, "metadata": {"name": other, "namespace": path.place.runs, "labels": labels}, "spec": spec}
        )
        changed.apply()
        stalled = changed.wait_for_phase("Failed").status.condition("Stalled")
        assert stalled is not None
        assert stalled.reason == "ReplayDiffers"
        assert f"step {FIRST + 2}: the loss is " in stalled.message
        assert f"proved: steps {FIRST + 1} to {LAST}\n" in plugin(path, "undisturbed")
    finally:
        kubectl("delete", RESOURCE, name, other, *where, "--ignore-not-found", "--wait=false")
