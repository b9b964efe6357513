"""Breaks the engine on purpose, one thing at a time, and sees that the row of docs/reliability.md that is about it fails.

``python -m tests.faults.mutations`` works on a copy of the trainer's package, which the tests and their processes find first on their path;
the checkout stays as it is. With ``--page PAGE`` the outcome is written between the two marks of the page.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.faults import rows
from tests.faults.table import REPOSITORY
from tests.suite.tiers import Part, Tier, expression

PACKAGE = REPOSITORY / "trainer" / "halcyon"
BEGIN, END = "<!-- mutations: begin -->", "<!-- mutations: end -->"
_FAILED = re.compile(r"^FAILED (\S+?::\S+)(?: - (.*))?$", re.MULTILINE)
_LONGEST_REASON = 140
IN_MAKE_TEST = " or ".join(f"({expression(part, Tier.TEST)})" for part in Part)


@dataclass(frozen=True)
class Mutation:
    """One thing broken."""

    what: str
    edits: tuple[tuple[str, str, str], ...]
    """File below the package, what stands there once, and what shall stand there instead."""
    tests: tuple[str, ...]
    """Tests that must fail, each in the tier `test`: what `make test` runs must find the mutation by itself."""
    row: str


def _row(mark: object) -> str:
    return mark.mark.kwargs["row"]  # type: ignore[attr-defined]


MUTATIONS = (
    Mutation(
        "the hash of a file is not looked at",
        (("checkpoint/verify.py", "if _sha256(data) != file.sha256:", "if False:"),),
        ("tests/faults/test_damage.py::test_every_kind_of_harm_to_every_file_of_a_checkpoint_is_found[file-1]",),
        _row(rows.DAMAGE),
    ),
    Mutation(
        "the fence is skipped: a writer that lost the root goes on from the HEAD that is there",
        (("checkpoint/head.py", "if (head.epoch, head.writer) != (epoch, writer):", "if False:"),),
        ("tests/faults/test_two_writers.py::test_a_writer_stopped_in_mid_save_and_woken_after_it_was_replaced[file-25]",),
        _row(rows.TWO_WRITERS),
    ),
    Mutation(
        "HEAD is changed before COMMIT is written",
        (
            (
                "checkpoint/commit.py",
                "for key, content in ((MANIFEST_KEY, data), (COMMIT_KEY, encode_commit(data, about.epoch))):",
                "for key, content in ((MANIFEST_KEY, data),):",
            ),
            (
                "checkpoint/commit.py",
                "    return entry\n\n\nclass Undecided",
                '    store.create(f"{prefix}{COMMIT_KEY}", encode_commit(data, about.epoch))\n    return entry\n\n\nclass Undecided',
            ),
        ),
        ("tests/faults/test_kills.py::test_the_engine_killed_before_each_write_of_a_commit[file]",),
        _row(rows.KILLS),
    ),
    Mutation(
        "a mark that was written, and whose answer was lost, is taken for somebody else's",
        (("checkpoint/store.py", "return self.read(key).data == data", "return False"),),
        ("tests/faults/test_store.py::test_a_fault_of_every_request_once_is_got_over[lose]",),
        _row(rows.STORE),
    ),
    Mutation(
        "a failed save is not told",
        (("checkpoint/checkpointer.py", "                self.on_failure(self.last_error)", "                pass"),),
        ("tests/faults/test_root.py::test_an_exceeded_quota_costs_checkpoints_and_not_the_training",),
        _row(rows.ROOT),
    ),
    Mutation(
        "the newest checkpoint is the one with the latest time",
        (
            (
                "checkpoint/head.py",
                "key=lambda one: (one.step, one.epoch.attempt, one.epoch.restart), reverse=True",
                "key=lambda one: one.time, reverse=True",
            ),
        ),
        ("tests/faults/test_root.py::test_a_clock_that_goes_back_an_hour_decides_nothing",),
        _row(rows.ROOT),
    ),
    Mutation(
        "a chunk is given to one region only of those that need it",
        (("checkpoint/reader.py", "for key in self.needed[indices]:", "for key in self.needed[indices][:1]:"),),
        ("tests/faults/test_topology.py::test_from_mesh_to_mesh_all_bits_stay[file]",),
        _row(rows.TOPOLOGY),
    ),
)


def mutate(mutation: Mutation, package: Path) -> None:
    """Edit a copy of the package.

    Raises:
        ValueError: The code has changed and the mutation must be brought up to it.
    """
    for name, old, new in mutation.edits:
        text = (package / name).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{name} has {text.count(old)} times what the mutation {mutation.what!r} replaces: {old!r}")
        (package / name).write_text(text.replace(old, new))


def failures(mutation: Mutation) -> list[tuple[str, str]]:
    """The tests that fail under a mutation, each with why."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "halcyon"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        mutate(mutation, package)
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", "-m", IN_MAKE_TEST, "--tb=line", *mutation.tests]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]), "COLUMNS": "500"}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run under the mutation {mutation.what!r}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return _FAILED.findall(done.stdout)


def line(mutation: Mutation, failed: list[tuple[str, str]]) -> str:
    """One line of the page's table."""
    if not failed:
        return f"| {mutation.what} | **nothing failed** | {mutation.row} | |"
    test, reason = failed[0]
    reason = " ".join(reason.replace("|", "/").split())
    reason = re.sub(r"\S*/tmp/\S*", "…", reason)
    short = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
    return f"| {mutation.what} | `{test.split('::')[-1]}` | {mutation.row} | `{short}` |"


def write(page: Path, tried: dict[str, str]) -> None:
    """Put lines into the page's table; those of other mutations stay."""
    before, rest = page.read_text().split(BEGIN)
    table, after = rest.split(END)
    lines = {one.strip("|").split(" | ")[0].strip(): one for one in table.strip().splitlines()[2:]} | tried
    body = "\n".join(lines[mutation.what] for mutation in MUTATIONS if mutation.what in lines)
    page.write_text(f"{before}{BEGIN}\n| broken on purpose | failed | row | how |\n|---|---|---|---|\n{body}\n{END}{after}")


def main() -> int:
    """Try all mutations, or those whose number is named."""
    parser = argparse.ArgumentParser(description="Break the engine on purpose and see which row of docs/reliability.md fails.")
    parser.add_argument("--page", type=Path, help="write the outcome into this page")
    parser.add_argument("numbers", nargs="*", type=int, help="of the mutations to try, from 1 (default: all)")
    arguments = parser.parse_args()
    tried: dict[str, str] = {}
    survived = 0
    for number, mutation in enumerate(MUTATIONS, start=1):
        if arguments.numbers and number not in arguments.numbers:
            continue
        failed = failures(mutation)
        survived += not failed
        tried[mutation.what] = line(mutation, failed)
        print(tried[mutation.what], flush=True)
    if arguments.page is not None:
        write(arguments.page, tried)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
