"""A SIGKILL of a real process changes no bit, with any update rule, a moving average and uneven loss weights.

A run with parameter groups has several rules, so a few runs cover all of them.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.checkpoint.comparison import compare
from halcyon.optim.registry import RULES
from halcyon_api.exit_codes import ExitCode
from tests.ports import free_port
from tests.trainer.process_groups import TrainerProcesses, each_restart, start_processes
from tests.trainer.test_resume import newest_checkpoint, seen_step

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
    "bases": {"soap": {"everySteps": 2}, "groups": [{"match": f"{MLP}*", "rule": "soapMuon"}]},
    "adam": {
        "muonAdamw": {},
        "groups": [
            {"match": f"{ATTENTION}query.*", "rule": "lion", "learningRate": 0.2},
            {"match": f"{ATTENTION}key.*", "rule": "adafactor"},
            {"match": f"{ATTENTION}value.*", "rule": "adopt"},
            {"match": f"{ATTENTION}output.*", "rule": "mars"},
            {"match": f"{MLP}gate.*", "rule": "ademamix"},
            {"match": f"{MLP}up.*", "rule": "adamMini"},
            {"match": "embedding.*", "rule": "scheduleFree"},
            {"match": "untied_head.*", "rule": "adamH"},
            {"roles": ["norm"], "rule": "sophia"},
        ],
    },
}
"""``spec.optimizer`` of each run. Its schedule is constant."""


def document(folder: Path, root: str, case: str) -> dict[str, Any]:
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
            "accelerator": {"type": "cpu", "topology": "1x1", "slices": 1},
            "model": {"llama": {"layers": 2, "hiddenSize": 16, "intermediateSize": 24, "heads": 2}},
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
            "trainer": {"steps": STEPS, "batchSize": ROWS, "sequenceLength": LENGTH},
            "checkpoint": {"root": f"file://{folder / root}", "save": {"everySteps": 2}},
            "telemetry": {"port": free_port()},
        },
    }


def rules_of(case: str) -> set[str]:
    groups = CASES[case].get("groups", [])
    return {name for name in CASES[case] if name in RULES} | {group["rule"] for group in groups}


def ended(group: TrainerProcesses) -> TrainerProcesses:
    try:
        assert set(group.wait()) == {ExitCode.DONE}
    finally:
        group.reap()
    return group


def test_the_cases_have_every_rule() -> None:
    assert {rule for case in CASES for rule in rules_of(case)} == set(RULES)


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("case", CASES)
def test_every_rule_resumes_bitwise_through_sigkill(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ended(start_processes(document(tmp_path, "calm", case), tmp_path / "calm-log")).leader.losses()
    losses: dict[int, float] = {}
    monkeypatch.setenv("HANG", "4,0")  # the process waits in the fifth step until it is killed
    killed = document(tmp_path, "killed", case)
    for number, group in enumerate(each_restart(killed, tmp_path / "killed-log", module="tests.trainer.trouble_child")):
        if number == 0:
            group.leader.wait_for(seen_step(3))
            monkeypatch.delenv("HANG")
            group.signal(signal.SIGKILL, 0)
        assert group.wait() == [-signal.SIGKILL if number == 0 else ExitCode.DONE]
        losses |= group.leader.losses()
        assert all(loss == expected[step] for step, loss in group.leader.losses().items())
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert list(compare(*(newest_checkpoint(tmp_path / name) for name in ("calm", "killed")))) == []
