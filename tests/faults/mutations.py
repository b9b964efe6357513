"""Breaks the trainer or the operator on purpose, one defect at a time, and checks that a test of the row in
docs/reliability.md fails.

``python -m tests.faults.mutations`` works on a copy of the package, which is first on the path of the tests and of
their processes; the checkout does not change.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.mutation_table import MUTATIONS, Mutation
from tests.faults.table import REPOSITORY
from tests.suite.tiers import SuitePart, Tier, expression

_FAILED = re.compile(r"^FAILED (\S+?::[^\s\[]+(?:\[.*?\])?)(?: - (.*))?$", re.MULTILINE)
_LONGEST_REASON = 140
IN_MAKE_TEST = " or ".join(f"({expression(part, Tier.TEST)})" for part in SuitePart)


def mutate(mutation: Mutation, package: Path) -> None:
    """Apply a mutation to a copy of the package.

    Raises:
        ValueError: The code has changed, so the mutation must be updated.
    """
    for name, old, new in mutation.edits:
        text = (package / name).read_text()
        if text.count(old) != 1:
            raise ValueError(
                f"{name} has {text.count(old)} occurrences of the text that the mutation {mutation.what!r} replaces: "
                f"{old!r}"
            )
        (package / name).write_text(text.replace(old, new))


def failures(mutation: Mutation) -> list[tuple[str, str]]:
    """(test, reason) of each test that fails under a mutation."""
    with tempfile.TemporaryDirectory() as folder:
        original = REPOSITORY / mutation.package
        package = Path(folder) / original.name
        shutil.copytree(original, package, ignore=shutil.ignore_patterns("__pycache__"))
        mutate(mutation, package)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "-x",
            "-m",
            IN_MAKE_TEST,
            "--tb=line",
            *mutation.tests,
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]),
            "COLUMNS": "500",
        }
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"pytest could not run under the mutation {mutation.what!r}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
        )
    return _FAILED.findall(done.stdout)


def line(mutation: Mutation, failed: list[tuple[str, str]]) -> str:
    """What became of a mutation: the test that failed first, and how."""
    if not failed:
        return f"{mutation.what}: NOTHING FAILED ({mutation.row})"
    test, reason = failed[0]
    reason = " ".join(reason.split())
    short = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
    return f"{mutation.what}: {test.split('::')[-1]} ({mutation.row}): {short}"


def main() -> int:
    """Try all mutations, or those with the given numbers."""
    parser = argparse.ArgumentParser(
        description="Break the trainer or the operator on purpose and show which row of docs/reliability.md fails."
    )
    parser.add_argument("numbers", nargs="*", type=int, help="numbers of the mutations to try, from 1 (default: all)")
    arguments = parser.parse_args()
    tried = survived = 0
    for number, mutation in enumerate(MUTATIONS, start=1):
        if arguments.numbers and number not in arguments.numbers:
            continue
        failed = failures(mutation)
        survived += not failed
        tried += 1
        print(line(mutation, failed), flush=True)
    if not tried:
        print(f"no mutation has the numbers {arguments.numbers}; there are {len(MUTATIONS)}", file=sys.stderr)
    return 1 if survived or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
