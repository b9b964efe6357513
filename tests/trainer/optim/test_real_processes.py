"""Every update rule, with a moving average and uneven loss weights, in real processes.

A SIGKILL changes no bit, and two hosts with microbatches train like one process with the full batch.

A run with parameter groups has several rules, so a few runs cover all of them.
"""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.checkpoint.arrays import compare
from halcyon.optim.registry import RULES
from halcyon_api.ends import ExitCode
from tests.families import llama
from tests.ports import free_port
from tests.trainer.run.test_resume import newest_checkpoint, seen_step
from tests.trainer.support.process_groups import TrainerProcesses, each_restart, start_processes

STEPS, ROWS, LENGTH = 6, 8, 16
ATTENTION, MLP = "blocks.stacked.attention.", "blocks.stacked.mlp."

CASES: dict[str, dict[str, Any]] = {
    "muon": {"muon": {}},
    "matrices": {
        "adamw": {},
        "groups": [
            {"match": f"{ATTENTION}query.*", "rule": "muon"},
            {"match": f"{ATTENTION}key.*", "rule": "normuon"},
            {"match": f"{ATTENTION}value.*", "rule": "muonH"},
            {"match": f"{ATTENTION}output.*", "rule": "kron"},
            {"match": f"{MLP}*", "rule": "scion"},
        ],
    },
    "bases": {"learningRate": 0.0001, "soap": {"everySteps": 2}, "groups": [{"match": f"{MLP}*", "rule": "soapMuon"}]},
    "adam": {
        "muonAdamw": {},
        "groups": [
            {"match": f"{ATTENTION}query.*", "rule": "lion", "learningRate": 0.2},
            {"match": f"{ATTENTION}key.*", "rule": "adafactor"},
            {"match": f"{ATTENTION}value.*", "rule": "adopt"},
            {"match": f"{ATTENTION}output.*", "rule": "mars"},
            {"match": f"{MLP}up.*", "rule": "adamMini"},
            {"match": "untied_head.*", "rule": "adamH"},
            {"roles": ["norm"], "rule": "sophia"},
        ],
    },
}
"""``spec.optimizer`` of each run. Its schedule is constant."""
LIMITS = {"bases": 2e-4}
"""Largest difference of a parameter between hosts and one process. Default: 1e-6. In a basis of `soap`, a direction
with nearly no gradient gets an update of the size of the rate, and rounding decides its sign: a parameter may differ by
two such updates. With a rate of 0.001 the losses differed by 1.3e-5, so this run has a tenth of that rate. For steps in
float64 see test_training.py."""


def document(folder: Path, root: str, case: str, *, hosts: int = 1, microbatches: int = 1) -> dict[str, Any]:
    """A run of six steps on rows of tokens whose loss weights are uneven, also between rows; some are 0."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        noise = np.random.default_rng(0)
        lines = [
            {
                "tokens": noise.integers(0, 200, LENGTH).tolist(),
                "weights": (noise.random(LENGTH) * (noise.random(LENGTH) > number % ROWS / ROWS)).round(3).tolist(),
            }
            for number in range(80)
        ]
        rows.write_text("\n".join(map(json.dumps, lines)))
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "rules", "namespace": "tests"},
        "spec": {
            "accelerator": {"type": "cpu", "topology": "1x1", "slices": hosts},
            "model": llama(2, 16, 24, 2),
            "data": {
                "sources": [
                    {
                        "name": "rows",
                        "jsonl": {"paths": [str(rows)]},
                        "format": {"prebuilt": {"weightsField": "weights"}},
                        "layout": {"pack": {}},
                    }
                ]
            },
            "optimizer": {"learningRate": 0.001, "schedule": {"constant": {}}} | CASES[case],
            "average": {"ema": {"decay": 0.8}},
            "trainer": {"steps": STEPS, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches},
            "checkpoint": {"root": f"file://{folder / root}", "save": {"everySteps": 2}},
            "telemetry": {"port": free_port()},
        },
    }


def rules_of(case: str) -> set[str]:
    groups = CASES[case].get("groups", [])
    return {name for name in CASES[case] if name in RULES} | {group["rule"] for group in groups}


@functools.cache
def trained_alone(folder: Path, case: str) -> dict[int, float]:
    """The losses of one process with the full batch. Its root is ``alone``."""
    return ended(start_processes(document(folder, "alone", case), folder / "alone-log")).leader.losses()


def ended(group: TrainerProcesses) -> TrainerProcesses:
    try:
        assert set(group.wait()) == {ExitCode.DONE}
    finally:
        group.reap()
    return group


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each case: both tests compare with the same training of one process."""
    return {case: tmp_path_factory.mktemp(case) for case in CASES}


def test_the_cases_have_every_rule() -> None:
    assert {rule for case in CASES for rule in rules_of(case)} == set(RULES)


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("case", CASES)
def test_every_rule_resumes_bitwise_through_sigkill(
    folders: dict[str, Path], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, losses = folders[case], dict[int, float]()
    expected = trained_alone(folder, case)
    monkeypatch.setenv("HANG", "4,0")  # the process waits in the fifth step until it is killed
    killed = document(folder, "killed", case)
    for number, group in enumerate(
        each_restart(killed, folder / "killed-log", module="tests.trainer.support.trouble_child")
    ):
        if number == 0:
            group.leader.wait_for(seen_step(3))
            monkeypatch.delenv("HANG")
            group.signal(signal.SIGKILL, 0)
        assert group.wait() == [-signal.SIGKILL if number == 0 else ExitCode.DONE]
        losses |= group.leader.losses()
        assert all(loss == expected[step] for step, loss in group.leader.losses().items())
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert list(compare(*(newest_checkpoint(folder / name) for name in ("alone", "killed")))) == []


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("case", CASES)
def test_two_hosts_with_microbatches_and_uneven_weights_train_like_the_full_batch(
    folders: dict[str, Path], case: str, measured: Callable[..., None]
) -> None:
    folder = folders[case]
    expected = trained_alone(folder, case)
    group = ended(start_processes(document(folder, "hosts", case, hosts=2, microbatches=2), folder / "hosts-log"))
    assert len(group.processes) == 2
    found = group.leader.losses()
    assert [found[step] for step in expected] == pytest.approx(list(expected.values()), abs=1e-5)
    differences = list(compare(*(newest_checkpoint(folder / name) for name in ("alone", "hosts"))))
    of_model = {one.path: one.largest for one in differences if one.path.startswith("model")}
    assert of_model, "sums of other parts round in another way"
    assert max(of_model.values()) <= LIMITS.get(case, 1e-6), of_model
    for rule in rules_of(case):
        measured("rule hosts", rule, max(of_model.values()))
