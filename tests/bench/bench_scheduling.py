"""What processes that use Gloo gain from the policy SCHED_BATCH: pairs of trainings with and without.

Two processes train an example together. Prints the median seconds of a step, the processor seconds of both processes,
and the last loss.

    python tests/bench/bench_scheduling.py [RUN.YAML] [--steps 120] [--pairs 4]
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
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[2]))

from tests.bench.bench_start import environment, placed
from tests.ports import free_port

CHILD = """
import sys
import halcyon.parallel.process_group as process_group
if sys.argv.pop(1) == "without":
    process_group.schedule_as_batch = lambda: None
from halcyon.commands.main import app
app()
"""
FIRST_STEPS = 20
"""Steps that are not counted, because the processes still do work of the start beside them."""


@dataclass(frozen=True)
class Training:
    """The measurements of one training of two processes."""

    step_seconds: float
    user_seconds: float
    system_seconds: float
    loss: float


def train(document: dict[str, Any], base: Path, which: str, number: int) -> Training:
    """Train in two new processes, with a new root."""
    coordinator = f"127.0.0.1:{free_port()}"
    processes = []
    for index in range(2):
        own = {**document, "spec": {**document["spec"], "telemetry": {"port": free_port()}}}
        path = base / f"run-{index}.yaml"
        path.write_text(yaml.safe_dump(own), encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            CHILD,
            which,
            "train",
            str(path),
            "--json",
            "--checkpoint-root",
            str(base / f"{which}-{number}"),
        ]
        command += ["--compilation-cache", str(base / f"compiled-{index}")]
        output = (base / f"events-{index}").open("w", encoding="utf-8")
        child_environment = environment(own, path, 0, index, coordinator)
        with output:
            processes.append(subprocess.Popen(command, env=child_environment, stdout=output, stderr=subprocess.DEVNULL))
    user = system = 0.0
    for process in processes:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        user, system = user + used.ru_utime, system + used.ru_stime
    lines = (base / "events-0").read_text(encoding="utf-8").splitlines()
    if codes := [process.returncode for process in processes if process.returncode]:
        raise SystemExit(f"the training ended with {codes}: {lines[-1] if lines else 'no event'}")
    steps = [event for event in map(json.loads, lines) if event["event"] == "step"][FIRST_STEPS:]
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in steps]
    return Training(
        statistics.median(later - earlier for earlier, later in pairwise(times)), user, system, steps[-1]["loss"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("examples/stdlib-llama.yaml"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=4)
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        document = placed(yaml.safe_load(arguments.run.read_text(encoding="utf-8")), base / "root", base / "tokens", 2)
        document["spec"]["trainer"] |= {"steps": arguments.steps}
        train(document, base, "with", -1)  # makes the token cache and the compiled programs
        for number in range(arguments.pairs):
            pair = {which: train(document, base, which, number) for which in ("without", "with")}
            for which, one in pair.items():
                print(
                    f"{which:>8}: {1e3 * one.step_seconds:6.1f} ms a step   user {one.user_seconds:5.1f} s   "
                    f"system {one.system_seconds:5.1f} s   loss {one.loss!r}",
                    flush=True,
                )
            ratios.append(pair["without"].step_seconds / pair["with"].step_seconds)
    print(
        f"with SCHED_BATCH a step is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to "
        f"{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
