"""Runs one stage and prints its rows as JSON lines: ``python -m tests.accelerator.stage NAME [--dry-run] [--seconds S]
[--peer DIR]``.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.accelerator.measure import Options, Stage, machine, options_of
from tests.accelerator.rows import Row


def _machine(options: Options) -> Iterator[Row]:
    del options
    yield {name: value for name, value in machine().items() if name != "stage"}


def stage_of(name: str) -> Stage:
    """The function of a stage. The parts of its name behind the first hyphen are its arguments."""
    if name == "machine":
        return _machine
    module, *case = name.split("-")
    function = importlib.import_module(f"tests.accelerator.stages.{module}").rows
    return functools.partial(function, case=tuple(case)) if case else function


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--torch", type=Path)
    arguments = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print notes
    for row in stage_of(arguments.name)(options_of(arguments)):
        print(json.dumps(row), file=answers, flush=True)
    sys.stderr.flush()
    os._exit(0)  # threads that still compile must not delay the next stage


if __name__ == "__main__":
    main()
