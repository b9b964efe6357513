"""What a training on the processor gains when its process keeps freed memory: pairs of trainings with and without.

Prints the tokens per second and the processor seconds of the system of each training, and the largest memory of its
process.

    python tests/bench/bench_freed_memory.py [--hidden-size 128] [--layers 4] [--steps 60] [--pairs 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

CHILD = """
import sys
import halcyon.parallel.process_group as process_group
import halcyon.run.process
if sys.argv.pop(1) == "without":
    process_group.keep_freed_memory = halcyon.run.process.keep_freed_memory = lambda: False
from halcyon.commands.main import app
app()
"""


@dataclass(frozen=True)
class Training:
    """The measurements of one training."""

    tokens_per_second: float
    loss: float
    system_seconds: float
    largest_megabytes: float


def document(folder: Path, hidden_size: int, layers: int, steps: int) -> Path:
    """Write the document of a small Llama that learns the standard library."""
    spec = {
        "accelerator": {"type": "cpu", "topology": "1x2"},
        "model": {
            "llama": {
                "numHiddenLayers": layers,
                "hiddenSize": hidden_size,
                "intermediateSize": 3 * hidden_size,
                "numAttentionHeads": 4,
            }
        },
        "data": {"sources": [{"name": "python", "stdlib": {}}], "cache": {"root": f"file://{folder}/tokens"}},
        "optimizer": {"learningRate": 0.003, "adamw": {}},
        "trainer": {"steps": steps, "batchSize": 8, "sequenceLength": 256},
        "checkpoint": {"root": f"file://{folder}/root", "save": {"everySteps": steps}},
    }
    path = folder / "run.yaml"
    head = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "freed-memory"}}
    path.write_text(yaml.safe_dump({**head, "spec": spec}), encoding="utf-8")
    return path


def train(path: Path, which: str, number: int) -> Training:
    """Train in a new process, with a new root."""
    root = path.parent / f"root-{number}-{which}"
    command = [sys.executable, "-c", CHILD, which, "train", str(path), "--json", "--checkpoint-root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        events = [json.loads(line) for line in child.stdout if line.startswith("{")]
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"the training ended with {child.returncode}: {events[-1] if events else 'no event'}")
    last = [event for event in events if event["event"] == "step"][-1]
    return Training(last["tokensPerSecond"], last["loss"], used.ru_stime, used.ru_maxrss / 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        path = document(Path(folder), arguments.hidden_size, arguments.layers, arguments.steps)
        train(path, "with", -1)  # makes the token caches and the compiled programs
        for number in range(arguments.pairs):
            pair = {which: train(path, which, number) for which in ("without", "with")}
            for which, one in pair.items():
                print(
                    f"{which:>8}: {one.tokens_per_second:8,.0f} tokens/s   system {one.system_seconds:5.2f} s   "
                    f"largest {one.largest_megabytes:6,.0f} MB   loss {one.loss!r}"
                )
            ratios.append(pair["with"].tokens_per_second / pair["without"].tokens_per_second)
    print(f"with / without: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
