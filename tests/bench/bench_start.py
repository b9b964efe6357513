"""Seconds from process start to the end of the first step of an example: cold, and with the compilation cache.

Each run is a process of its own with a checkpoint root of its own, in which there is no token cache yet: its text is tokenized (`data`).
The parts are what the process itself reports.

    python tests/bench/bench_start.py [RUN.YAML] [--pairs 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def first_step(run: Path, cache: Path, root: Path) -> tuple[float, dict[str, float]]:
    """Wall seconds to the first step, and the parts of the start."""
    command = [sys.executable, "-m", "halcyon.cli", "train", str(run), "--json"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--compilation-cache", str(cache), "--checkpoint-root", f"file://{root}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "compiled":
                seconds = time.perf_counter() - began
                process.kill()
                return seconds, {name: value for name, value in event.items() if name.endswith("Seconds")}
    raise SystemExit("the run ended before its first step")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path, default=Path("examples/local-llama.yaml"))
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        first_step(options.run, base / "warm", base / "root-fill")
        # The cache is written when the first step has ended; a second run finds out whether it was whole.
        first_step(options.run, base / "warm", base / "root-fill")
        for pair in range(options.pairs):
            for name, cache in (("cold", base / f"cold-{pair}"), ("warm", base / "warm")):
                seconds, parts = first_step(options.run, cache, base / f"root-{name}-{pair}")
                told = "  ".join(f"{part.removesuffix('Seconds')} {value:.2f}" for part, value in parts.items())
                print(f"pair {pair} {name}: first step after {seconds:5.2f} s   {told}")


if __name__ == "__main__":
    main()
