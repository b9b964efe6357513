"""Seconds from process start to the end of the first step of an example, in parts: for a cold start and for a restart.

Each start is of new processes that all start at once. `cold` finds only the token cache, and compiles. `restart` finds
a checkpoint and the compiled programs in the root, and has an empty local directory, as a new pod has. Process 0
reports the parts. On a shared machine, compare the processor seconds of each process up to the end of its first step,
and not the wall seconds.

    python tests/bench/bench_start.py [RUN.YAML] [--slices 2] [--pairs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[2]))

from halcyon_api.environment import PodEnvironment
from halcyon_api.mesh import run_mesh
from halcyon_api.reading import parse_run
from tests.ports import free_port

STEPS_BEFORE_THE_END = 3


@dataclass
class Start:
    """The measurements of one start."""

    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    processor_seconds: list[float] = field(default_factory=list)

    def line(self) -> str:
        """The measurements as one line of text."""
        parts = "  ".join(f"{name} {value:.2f}" for name, value in self.parts.items())
        return (
            f"{self.seconds:6.2f} s   {parts}   processor "
            f"{' + '.join(f'{one:.2f}' for one in self.processor_seconds)} s"
        )


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def environment(document: dict[str, Any], path: Path, restart: int, index: int, coordinator: str) -> dict[str, str]:
    run = parse_run(document)
    topology = run.spec.accelerator.resolve()
    pod = PodEnvironment(
        run_document=str(path), run_uid="bench", namespace=run.metadata.namespace, attempt=1, restart=restart,
        job_index=index // topology.hosts_per_slice, completion_index=index % topology.hosts_per_slice,
        slices=topology.slices, hosts_per_slice=topology.hosts_per_slice, devices_per_host=topology.devices_per_host,
        coordinator=coordinator, mesh=run_mesh(run.spec, topology), resume_step=0,
        termination_log=str(path.with_suffix(".end")),
    )  # fmt: skip
    return {name: value for name, value in os.environ.items() if not name.startswith("HALCYON_")} | pod.variables()


def start(document: dict[str, Any], base: Path, restart: int) -> Start:
    """Start all processes, and end them by SIGTERM soon after the first step, so that they save a checkpoint."""
    seen = Start()
    coordinator = f"127.0.0.1:{free_port()}"
    processes: list[subprocess.Popen[str]] = []
    for index in range(parse_run(document).spec.accelerator.resolve().processes):
        own = {**document, "spec": {**document["spec"], "telemetry": {"port": free_port()}}}
        path = base / f"run-{index}.yaml"
        path.write_text(yaml.safe_dump(own), encoding="utf-8")
        command = [sys.executable, "-m", "halcyon.commands.main", "train", str(path), "--json"]
        command += ["--compilation-cache", str(base / f"local-{restart}-{index}")]
        with (base / f"errors-{index}").open("w", encoding="utf-8") as errors:
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment(own, path, restart, index, coordinator),
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            )

    def follow(stream: Any) -> None:
        first = 0
        for line in stream:
            event = json.loads(line)
            if event["event"] == "compiled":
                seen.processor_seconds = [processor_seconds(process.pid) for process in processes]
                seen.parts = {
                    name.removesuffix("Seconds"): value for name, value in event.items() if name.endswith("Seconds")
                }
                seen.seconds = sum(seen.parts.values())
                first = event["step"]
            elif event["event"] == "step" and seen.parts and event["step"] == first + STEPS_BEFORE_THE_END:
                for process in processes:
                    process.send_signal(signal.SIGTERM)

    readers = [threading.Thread(target=follow, args=(process.stdout,)) for process in processes]
    for reader in readers:
        reader.start()
    codes = [process.wait() for process in processes]
    for reader in readers:
        reader.join()
    if not seen.parts:
        raise SystemExit(
            f"the run ended before its first step, with {codes}: "
            f"{(base / 'errors-0').read_text(encoding='utf-8')[-2000:]}"
        )
    return seen


def placed(document: dict[str, Any], root: Path, tokens: Path, slices: int) -> dict[str, Any]:
    """The document with its checkpoint root and token cache on this machine."""
    spec = document["spec"]
    checkpoint = {"root": f"file://{root}", "save": {"everySteps": 1000}}
    data = spec["data"] | {"cache": {"root": f"file://{tokens}"}}
    accelerator = spec["accelerator"] | {"slices": slices}
    return document | {"spec": spec | {"checkpoint": checkpoint, "data": data, "accelerator": accelerator}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path, default=Path("examples/stdlib-llama.yaml"))
    parser.add_argument("--slices", type=int, help="default: one, then two")
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    document = yaml.safe_load(options.run.read_text(encoding="utf-8"))
    for slices in (options.slices,) if options.slices else (1, 2):
        with tempfile.TemporaryDirectory() as temporary:
            base = Path(temporary)
            start(placed(document, base / "first", base / "tokens", slices), base, 0)
            for pair in range(options.pairs):
                run = placed(document, base / f"root-{pair}", base / "tokens", slices)
                for name, restart in (("cold", 10 * pair), ("restart", 10 * pair + 1)):
                    print(
                        f"{slices} processes, pair {pair}, {name:7}: first step after "
                        f"{start(run, base, restart).line()}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
