"""A run of two slices and the samplers of its pool, each a TrainingRun of its own, with kills of all of them."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest

from halcyon_demo.documents import variant
from halcyon_demo.records import LogLine
from halcyon_demo.training import RESOURCE, Training
from halcyon_devcluster import DevclusterError
from halcyon_devcluster.waiting import until
from tests.cluster.whole_path import WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.timeout(3000)]

SAMPLERS = 3
NUMBERS = ("gradientNorm", "answerTokens", "entropy", "mismatchMax")
ROWS = "".join(json.dumps({"question": f"{n} and {n * 7 % 10}?", "answer": f"#### {n % 3}"}) + "\n" for n in range(24))


def document(path: WholePath, name: str, steps: int, **policy: Any) -> dict[str, Any]:
    """A run of two slices that learns from rewards."""
    found = variant(path.document, name=name)
    spec = found["spec"]
    spec["accelerator"] |= {"slices": 2, "topology": "1x1"}
    form = {"prompt": {"field": "question", "referenceField": "answer", "template": "{{ messages[0]['content'] }}"}}
    spec.pop("tokenizer", None)
    spec["data"] = {
        "sources": [{"name": "asked", "jsonl": {"paths": ["s3://checkpoints/asked/rows.jsonl"]}, "format": form}]
    }
    spec["objective"] = {"policy": {"reward": "gsm8k", "groupSize": 4, "maxTokens": 8, "delaySteps": 3, **policy}}
    # No answer is right, so the decay alone changes the weights: entropies differ with each version of them.
    spec["optimizer"] = {"learningRate": 0.02, "weightDecay": 1.0, "schedule": {"constant": {}}, "adamw": {}}
    spec["trainer"] = {"steps": steps, "batchSize": 16, "sequenceLength": 32, "evaluation": {"everySteps": 0}}
    spec["checkpoint"]["save"] = {"everySteps": 5}
    spec["plan"] = "off"
    return found


def sampler(run: dict[str, Any], number: int) -> dict[str, Any]:
    """A sampler with as many devices as the run."""
    found = variant(run, name=f"sampler-{number}")
    spec = found["spec"]
    spec["task"], spec["recovery"] = "sample", {"inPlace": False}
    spec["accelerator"] |= {"slices": 1, "topology": "1x2"}
    spec["checkpoint"]["root"] = run["spec"]["checkpoint"]["root"]
    return found


def numbers(lines: tuple[LogLine, ...]) -> dict[int, set[tuple[float, ...]]]:
    """The numbers of each step, also of one that was done again."""
    found: dict[int, set[tuple[float, ...]]] = {}
    for line in lines:
        if line.event == "step":
            found.setdefault(line.step, set()).add(tuple(line.fields[name] for name in NUMBERS))
    return found


def kill_of(training: Training, index: int) -> None:
    """SIGKILL to a trainer; one that has just ended has no container until the next pod."""

    def killed() -> bool:
        with suppress(DevclusterError):
            training.kill(index)
            return True
        return False

    until(killed, timeout_seconds=120, failure=lambda: f"{training.name} has no running container")


@pytest.mark.parametrize(("steps", "kills"), [(40, 10), pytest.param(130, 50, marks=pytest.mark.long)])
def test_kills_of_a_run_and_its_samplers_change_no_bit(path: WholePath, steps: int, kills: int) -> None:
    with path.root("asked") as store:
        store.put("rows.jsonl", ROWS.encode())
    pooled = document(path, "pooled", steps, sampledBy="samplers")
    calm, run = path.training_of(document(path, "alone", steps)), path.training_of(pooled)
    samplers = [path.training_of(sampler(pooled, number)) for number in range(SAMPLERS)]
    chance = random.Random(1)
    try:
        calm.apply()
        _, reference = path.finish(calm)
        for one in (run, *samplers):
            one.apply()
        for kill in range(kills):
            run.wait_for_step(6 + kill * (steps - 10) // kills)
            struck: Training = chance.choice([run, *samplers])
            kill_of(struck, chance.randrange(2) if struck is run else 0)
        _, lines = path.finish(run)
        wanted = numbers(reference)
        assert len(set.union(*wanted.values())) == steps, "each version of the weights has its own numbers"
        assert numbers(lines) == wanted
        for one in samplers:
            one.wait_for_phase("Succeeded")
    finally:
        names = [training.name for training in (calm, run, *samplers)]
        path.devcluster.kubectl(
            "delete", RESOURCE, *names, "--namespace", path.place.runs, "--ignore-not-found", "--wait=false"
        )
