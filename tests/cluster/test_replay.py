"""A run of task ``replay`` computes steps of another run again, and its end says what it found."""

from __future__ import annotations

import json

import pytest

from halcyon_api.replays import REPLAY_KEY, replay_document
from halcyon_demo.comparison import Loss
from halcyon_demo.training import RESOURCE
from tests.cluster.whole_path import SAVE_EVERY, STEPS, WholePath
from tests.suite import promises

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.xdist_group("path")]

FIRST, LAST = STEPS - SAVE_EVERY, STEPS


@promises.REPLAYED
def test_a_replay_in_the_cluster_proves_steps_and_finds_another_number(
    path: WholePath, undisturbed: list[Loss]
) -> None:
    del undisturbed  # the run that is computed again
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)
    name, other = f"undisturbed-replay-{FIRST}", "undisturbed-changed"
    try:
        run = json.loads(kubectl("get", RESOURCE, "undisturbed", *where, "--output=json"))
        root = run["spec"]["checkpoint"]["root"]
        ending = name.removeprefix("undisturbed")
        document = replay_document(run, FIRST, None, name=name, root=f"{root}{ending}", cache=f"{root}/data")
        replay = path.training_of(document)
        replay.apply()
        ready = replay.wait_for_phase("Succeeded").status.condition("Ready")
        assert ready is not None
        assert ready.message.startswith(f"steps {FIRST + 1} to {LAST} of run undisturbed are confirmed")
        with path.root(name) as store:
            record = json.loads(bytes(store.get(REPLAY_KEY).bytes()))
        assert (record["identical"], record["stateCompared"], record["comparedSteps"]) == (True, True, SAVE_EVERY)

        spec = document["spec"] | {"optimizer": {**document["spec"]["optimizer"], "learningRate": 0.00299}}
        spec["checkpoint"] = spec["checkpoint"] | {"root": spec["checkpoint"]["root"].replace(name, other)}
        spec["from"] = spec["from"] | {"toStep": FIRST + 5}
        changed = path.training_of({**document, "metadata": {**document["metadata"], "name": other}, "spec": spec})
        changed.apply()
        stalled = changed.wait_for_phase("Failed").status.condition("Stalled")
        assert stalled is not None
        assert stalled.reason == "ReplayDiffers"
        assert f"step {FIRST + 2}: the loss is " in stalled.message
    finally:
        kubectl("delete", RESOURCE, name, other, *where, "--ignore-not-found", "--wait=false")
