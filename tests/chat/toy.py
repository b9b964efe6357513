"""The chain of examples/chat with a toy model and few steps, as a process that can be killed at any time."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.reading import History, read_history
from halcyon.telemetry.history.samples import StepSamples, read_samples
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_chat.chain import Stage, stages
from halcyon_chat.records import read_chain
from halcyon_devcluster.waiting import until
from tests.examples.documents import REPOSITORY
from tests.trainer.support.shared_programs import QUICK_FLAGS

STEPS = {"chat-pretrain": 30, "chat-finetune": 24, "chat-policy": 6}
MODEL = {"family": "nanochat", "depth": 2, "hiddenSize": 32, "headDim": 16, "windowPattern": "L"}
OPTIMIZER = {"learningRate": 0.003, "schedule": {"constant": {}}}


def toy(document: dict[str, Any]) -> dict[str, Any]:
    """A run of examples/chat with toy sizes."""
    found = copy.deepcopy(document)
    spec, name = found["spec"], found["metadata"]["name"]
    spec["model"], spec["tokenizer"] = MODEL, {"bpe": {"vocabSize": 512}}
    rule = "muonAdamw" if name == "chat-pretrain" else "adamw"
    if "optimizer" in spec:
        spec["optimizer"] = OPTIMIZER | {rule: {}}
    if "stdlib" in spec["data"]["sources"][0]:
        spec["data"]["sources"] = [{"name": "documentation", "stdlib": {"include": ["documentation"]}}]
    spec["data"].setdefault("cache", {})["workers"] = 1
    trainer: dict[str, Any] = spec["trainer"]
    trainer |= {"steps": STEPS.get(name, 30), "batchSize": 4, "sequenceLength": 96}
    trainer["evaluation"] = {"batches": 2} | ({"everySteps": 12} if spec.get("task", "train") == "train" else {})
    if "save" in spec["checkpoint"]:
        spec["checkpoint"]["save"] = {"everySteps": 4 if name != "chat-policy" else 2}
    if "policy" in spec.get("objective", {}):
        trainer["batchSize"] = 4
        trainer["evaluation"] = {"everySteps": 0}
        spec["objective"]["policy"] |= {"groupSize": 2, "maxTokens": 8}
    return found


def write_toy_chain(folder: Path) -> Path:
    """The toy documents in a folder."""
    folder.mkdir(parents=True)
    for document in read_chain(REPOSITORY / "examples" / "chat"):
        (folder / f"{document['metadata']['name']}.yaml").write_text(yaml.safe_dump(toy(document)))
    return folder


@dataclass
class Chain:
    """A chain in a folder.

    Attributes:
        documents: Folder of the run documents.
        folder: Folder of the chain.
        compiled: Folder of compiled programs.
    """

    documents: Path
    folder: Path
    compiled: Path
    printed: Path = field(init=False)

    def __post_init__(self) -> None:
        self.printed = self.folder.with_name(f"{self.folder.name}.txt")

    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS, "HALCYON_COMPILATION_CACHE": str(self.compiled)}
        kept: Mapping[str, str] = {
            name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))
        }
        return {**kept, **own}

    def start(self) -> subprocess.Popen[bytes]:
        """Start `make chat`, without the server."""
        command = [
            sys.executable,
            "-m",
            "halcyon_chat",
            "--folder",
            str(self.folder),
            "--documents",
            str(self.documents),
            "--no-serve",
        ]
        with self.printed.open("ab") as file:
            return subprocess.Popen(command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it has ended well."""
        try:
            until(lambda: process.poll() is not None, timeout_seconds=300, failure=lambda: self.tail())
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert process.returncode == 0, self.tail()

    def tail(self) -> str:
        """The end of its output."""
        return self.printed.read_text()[-3000:]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its stages."""
        return stages(read_chain(self.documents), self.folder, ["any"])

    def lines(self, stage: Stage) -> int:
        """Lines that the processes of a stage have printed."""
        log = self.folder / "logs" / f"{stage.name}.log"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def starts(self, stage: Stage) -> int:
        """Trainer processes of a run that have begun."""
        log = (self.folder / "logs" / f"{stage.name}.log").read_text()
        return sum('"event": "start"' in line or '"event":"start"' in line for line in log.splitlines())

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage is recorded as done."""
        return (self.folder / "done" / f"{stage.name}.json").exists()

    def history(self, stage: Stage) -> History:
        """The history of a run."""
        assert stage.root is not None
        return read_history(Store(CheckpointSpec(root=(self.folder / stage.name).as_uri())))

    def rollouts(self, stage: Stage) -> list[StepSamples | None]:
        """The answers that a run has sampled and rewarded in each step, with a hash of all tokens; None for another
        objective.
        """
        store = Store(CheckpointSpec(root=(self.folder / stage.name).as_uri()))
        return [read_samples(store, step) for step in range(1, (stage.steps or 0) + 1)]

    def answers(self, stage: Stage) -> dict[str, str]:
        """The answers of a stage that asks tasks, by file."""
        return {
            path.name: path.read_text()
            for path in sorted((self.folder / "results" / stage.name.removesuffix("-tasks")).glob("*.jsonl"))
        }

    def evaluation(self, stage: Stage) -> list[dict[str, Any]]:
        """The result of a run that evaluates, by source, without times."""
        found = json.loads((self.folder / stage.name / "evaluation.json").read_text())
        return [{name: value for name, value in one.items() if name != "seconds"} for one in found["sources"]]
