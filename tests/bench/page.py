"""Runs benchmarks one after the other (`make bench`), and writes what some of them print into docs/performance.md (`ARGS=--page`).

Other programs to compare with: `--nanochat CHECKOUT --python PYTHON`, an interpreter with torch. Levanter and Orbax get environments of
their own, which the benchmarks make.
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

sys.path.append(str(Path(__file__).parents[2]))

from tests.page_block import write_block

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
PAGE = REPOSITORY / "docs" / "performance.md"


@dataclass(frozen=True)
class Shown:
    """A benchmark on the page.

    Attributes:
        arguments: Its command line.
        peer: It compares with nanochat, so it needs the checkout and the interpreter.
    """

    arguments: str = ""
    peer: bool = False


SHOWN = {
    "start": Shown("--slices 2 --pairs 2"),
    "checkpoint": Shown("--pairs 3"),
    "orbax": Shown("--pairs 3"),
    "roots": Shown(),
    "nanochat": Shown(peer=True),
    "levanter_step": Shown(),
    "model": Shown(),
    "precision": Shown("--only AdamW Muon --steps 300 --layers 2 --length 64 --seeds 3"),
    "compile": Shown("--families llama,gemma3,qwen3Moe --layers 12,48"),
    "attention": Shown(),
    "loss": Shown(),
    "plan": Shown(),
    "engine": Shown("--weights float32 int8", peer=True),
    "evaluation": Shown(peer=True),
    "sources": Shown(),
    "tokenizer": Shown(),
    "order": Shown(),
    "memory": Shown("--gigabytes 2"),
    "cache": Shown(),
    "levanter": Shown("--pairs 3"),
}
"""In the order of the page."""


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
        "--page", action="store_true", help="run those of the page alone, and write what they print into it"
    )
    parser.add_argument("--only", nargs="*", help="names of benchmarks, such as checkpoint")
    parser.add_argument("--nanochat", type=Path, help="checkout of karpathy/nanochat")
    parser.add_argument("--python", type=Path, help="interpreter with torch")
    options = parser.parse_args()
    broken = []
    names = options.only or (
        list(SHOWN) if options.page else sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    )
    for name in names:
        shown = SHOWN.get(name, Shown())
        arguments = shown.arguments.split()
        if shown.peer and options.nanochat and options.python:
            arguments += ["--nanochat", str(options.nanochat), "--python", str(options.python)]
        print(f"==> {name}", flush=True)
        command = [sys.executable, str(FOLDER / f"bench_{name}.py"), *arguments]
        ended = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        print(ended.stdout, flush=True)
        if ended.returncode:
            broken.append(name)
        elif options.page:
            shown_command = " ".join(["python", f"tests/bench/bench_{name}.py", *shown.arguments.split()])
            write_block(PAGE, name, f"```text\n$ {shown_command}\n{ended.stdout.strip()}\n```")
            write_block(PAGE, "machine", machine())
    if broken:
        sys.exit(f"these benchmarks failed: {', '.join(broken)}")


if __name__ == "__main__":
    main()
