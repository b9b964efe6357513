"""Runs benchmarks one after the other (`make bench`), and keeps what some of them print in `results` (`ARGS=--keep`).

docs/performance.md sums up what they print. `results` has the last output of some benchmarks of settled questions too;
their programs were deleted after commit 2979f5f5, the older ones after bc1d44e2.

The other programs to compare with: `--nanochat CHECKOUT --python PYTHON`, an interpreter with torch, and `--trl PYTHON`,
one with trl.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
RESULTS = FOLDER / "results"


@dataclass(frozen=True)
class Kept:
    """A benchmark whose output is kept.

    Attributes:
        arguments: Its command line.
        peers: Options of the programs that it compares with.
    """

    arguments: str = ""
    peers: tuple[str, ...] = ()


_NANOCHAT = ("nanochat", "python")


KEPT = {
    "start": Kept("--slices 2 --pairs 2"),
    "checkpoint": Kept("--pairs 3"),
    "nanochat": Kept(peers=_NANOCHAT),
    "plan": Kept(),
    "engine": Kept("--weights float32 int8", _NANOCHAT),
    "trl": Kept("--steps 50", ("trl",)),
}


def machine() -> str:
    """What the figures belong to."""
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    processors = len(os.sched_getaffinity(0))
    return (
        f"{processors} processors of {names[0] if names else 'an unknown kind'}, Python {sys.version.split()[0]}, JAX {version('jax')}, "
        f"{dt.date.today().isoformat()}."
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--keep", action="store_true", help="run those of `results` alone, and write what they print into it"
    )
    parser.add_argument("--only", nargs="*", help="names of benchmarks, such as checkpoint")
    parser.add_argument("--nanochat", type=Path, help="checkout of karpathy/nanochat")
    parser.add_argument("--python", type=Path, help="interpreter with torch")
    parser.add_argument("--trl", type=Path, help="interpreter with trl, torch and datasets")
    options = parser.parse_args()
    broken = []
    names = options.only or (
        list(KEPT) if options.keep else sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    )
    for name in names:
        kept = KEPT.get(name, Kept())
        arguments = kept.arguments.split()
        given = {peer: getattr(options, peer) for peer in kept.peers}
        if all(given.values()):
            arguments += [word for peer, value in given.items() for word in (f"--{peer}", str(value))]
        print(f"==> {name}", flush=True)
        command = [sys.executable, str(FOLDER / f"bench_{name}.py"), *arguments]
        ended = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        print(ended.stdout, flush=True)
        if ended.returncode:
            broken.append(name)
        elif options.keep:
            command_line = " ".join(["python", f"tests/bench/bench_{name}.py", *kept.arguments.split()])
            text = f"{machine()}\n$ {command_line}\n{ended.stdout.strip()}\n"
            (RESULTS / f"{name}.txt").write_text(text, encoding="utf-8")
    if broken:
        sys.exit(f"these benchmarks failed: {', '.join(broken)}")


if __name__ == "__main__":
    main()
