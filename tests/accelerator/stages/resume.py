"""A run of `halcyon train` that SIGKILL ends, and that the same command continues: its losses, bit for bit, beside an
undisturbed run's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.reading import read_history
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.accelerator.measure import Options
from tests.accelerator.rows import Row

STEPS, KILLED_AFTER = 20, 12


def rows(options: Options) -> Iterator[Row]:
    """One row."""
    platform = jax.default_backend()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run in ("undisturbed", "killed"):
            (folder / f"{run}.json").write_text(json.dumps(document(folder, run, platform, options)))
        ended = [_wait(_started(folder, "undisturbed"))]
        first = _started(folder, "killed")
        _seen(first.stdout, KILLED_AFTER)
        os.kill(first.pid, signal.SIGKILL)
        killed = _wait(first)
        ended.append(_wait(_started(folder, "killed")))
        if any(ended):
            yield {"error": f"halcyon train ended with {ended}"}
            return
        right, found = (_losses(folder, run) for run in ("undisturbed", "killed"))
        yield {
            "run": f"{STEPS} steps, SIGKILL after step {KILLED_AFTER}",
            "exit code": killed,
            "steps": len(found),
            "equal losses": sum(found[step] == loss for step, loss in right.items() if step in found),
            "last loss": right.get(STEPS),
        }


def document(folder: Path, run: str, platform: str, options: Options) -> dict[str, Any]:
    """A run on the standard library of Python, with a checkpoint every five steps."""
    wide = {"numHiddenLayers": 4, "hiddenSize": 512, "intermediateSize": 1536, "numAttentionHeads": 8}
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": run},
        "spec": {
            "accelerator": {"type": "nvidia" if platform == "gpu" else "cpu", "topology": "1x1"},
            "model": {"family": "llama"}
            | options.pick(
                wide, {"numHiddenLayers": 2, "hiddenSize": 32, "intermediateSize": 64, "numAttentionHeads": 2}
            ),
            "data": {"sources": [{"name": "python", "stdlib": {}}], "cache": {"root": f"file://{folder}/tokens"}},
            "optimizer": {"learningRate": 0.001, "adamw": {}},
            "trainer": {
                "steps": STEPS,
                "batchSize": options.pick(16, 4),
                "sequenceLength": options.pick(1024, 64),
                "precision": {"compute": "bfloat16"},
            },
            "checkpoint": {"root": f"file://{folder}/{run}-root", "save": {"everySteps": 5}},
        },
    }


def _started(folder: Path, run: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "halcyon.commands.main", "train", "--json", str(folder / f"{run}.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait(process: subprocess.Popen[str]) -> int:
    output = process.communicate()[0]
    if process.returncode not in (0, -signal.SIGKILL):
        print(output[-2000:], file=sys.stderr)
    return process.returncode


def _seen(output: IO[str] | None, step: int) -> None:
    """Wait until the log has a step."""
    for line in output or ():
        if line.startswith("{") and (event := json.loads(line)).get("event") == "step" and event["step"] >= step:
            return


def _losses(folder: Path, run: str) -> dict[int, float]:
    history = read_history(Store(CheckpointSpec(root=f"file://{folder}/{run}-root")))
    return {row["step"]: row["loss"] for row in history.steps}
