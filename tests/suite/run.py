"""Runs the suite: measures the machine, runs the steps, and prints what each took and what failed.

A failed step does not stop the next ones, so one run shows every failure. Only the cluster tests are left out if the
cluster does not start. pytest prints the slowest tests of each part, and keeps the seconds of all in
``.halcyon/tests/PART.xml`` (JUnit).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from halcyon_devcluster import DevclusterError, machine, open_cluster
from halcyon_devcluster.progress import ConsoleProgress
from tests.suite import builds
from tests.suite.tiers import SuitePart, Tier, expression, folder

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".halcyon" / "tests"
CLUSTER_TESTS_BEGAN = "HALCYON_CLUSTER_TESTS_BEGAN"
"""Start of the first test on the cluster, as an ISO time: for the test that checks all requests of the cluster tests.
"""
ALL_CLUSTER_TESTS_RAN = "HALCYON_ALL_CLUSTER_TESTS_RAN"
"""1 if every test of the part `cluster` has run and passed."""
TESTS_FAILED = 1
"""pytest's exit status if it ran all tests and some failed."""
NO_TESTS = 5
"""pytest's exit status if no test was selected."""
_GROUP = re.compile(r"@[^\]@]*$")
"""The group of a test behind its id (see `tests.suite.groups`)."""
REPEATED, REPEATS = 3, 3
"""The most failed tests of a part that are repeated, and how often each must then pass alone."""


@dataclass(frozen=True)
class Step:
    """One step of a run: the checks, a part of the tests, a build.

    Attributes:
        name: The name in the report.
        seconds: Wall time.
        code: Exit status; 0 means success.
        failed: Ids of the failed tests. If the status is 0, they passed when repeated alone.
    """

    name: str
    seconds: float
    code: int
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workers:
    """How the tests of a part are distributed over processes.

    Attributes:
        count: Worker processes; 0 runs the tests in pytest's own process.
        spread: The value of xdist's `--dist`.
    """

    count: int
    spread: str = "worksteal"

    def arguments(self) -> list[str]:
        """The arguments of pytest."""
        return ["-n", str(self.count), "--dist", self.spread]


def workers(part: SuitePart, cores: int) -> Workers:
    """How the tests of a part are distributed on a machine with this number of cores. Pure.

    Tests that start processes sometimes wait, so there is one worker more than there are cores. Cluster tests wait more
    than they compute, and all share one node on any machine.
    """
    match part:
        case SuitePart.FAST | SuitePart.SLOW:
            return Workers(cores + 1)
        case SuitePart.CLUSTER:
            return Workers(4, "loadgroup")
        case SuitePart.ALONE:
            return Workers(0)
        case SuitePart.PROGRAMS:
            return Workers(max(1, cores // 2))


def pytest_command(part: SuitePart, tier: Tier, cores: int) -> list[str]:
    """The command that runs the tests of a part. Pure."""
    return [
        *(sys.executable, "-m", "pytest", "-q"),
        *workers(part, cores).arguments(),
        *("-m", expression(part, tier)),
        *record_arguments(part),
        folder(part),
    ]


def record_arguments(part: SuitePart) -> tuple[str, ...]:
    """The arguments with which pytest prints the slowest tests, and keeps the seconds of all and the failed ones."""
    cache = FOLDER / f"{part}-cache"
    return (
        "--durations=10",
        f"--junit-xml={FOLDER / part}.xml",
        *("-o", f"cache_dir={cache}", "--cache-clear"),
    )


def failed_tests(part: SuitePart) -> tuple[str, ...]:
    """The tests of a part that failed in its last run, by pytest's cache."""
    path = FOLDER / f"{part}-cache" / "v" / "cache" / "lastfailed"
    failed = json.loads(path.read_text()) if path.exists() else {}
    return tuple(_GROUP.sub("", test) for test in failed)


def repeat_commands(failed: Sequence[str]) -> list[list[str]]:
    """The commands that repeat failed tests, with nothing beside them. Pure.

    Some tests race with a clock that is not theirs, and neighbours can take most of the processor. A test that fails
    beside others and passes every repetition is reported as unsteady. More failures than a few are no accident.

    Returns:
        No command if there are no failed tests, or too many.
    """
    tests = list(dict.fromkeys(failed))
    if not 0 < len(tests) <= REPEATED:
        return []
    return [[sys.executable, "-m", "pytest", "-q", "-n", "0", *tests]] * REPEATS


class Run:
    """One run of a tier, or of some of its parts.

    Args:
        tier: The tier to run.
        parts: The parts of the tier to run.
        console: Output.
    """

    def __init__(self, tier: Tier, parts: Sequence[SuitePart], console: Console) -> None:
        self._tier = tier
        self._parts = parts
        self._console = console
        self._progress = ConsoleProgress(console)
        self._steps: list[Step] = []
        self._ran_tests = False

    def all(self, *, check: bool) -> int:
        """Run everything.

        Args:
            check: Whether to run `make check` first.

        Returns:
            The highest exit status of the steps; that of pytest without tests if no step ran a test.
        """
        before = machine.measure(rounds=4)
        os.environ[machine.VARIABLE] = f"{before.factor:.2f}"
        self._console.print(f"This machine is {before}; limits grow by that factor.", highlight=False, soft_wrap=True)
        if check:
            self._step("check", lambda: _exit_status(["make", "check"]))
        for part in (one for one in self._parts if one in (SuitePart.FAST, SuitePart.SLOW)):
            if part is SuitePart.SLOW:
                code = self._step(
                    "programs", lambda: self._report_error(lambda: builds.make_programs(self._tier, self._progress))
                )
                os.environ[builds.ALL_BUILT] = "" if code else "1"
            self._tests(part)
        if on_cluster := [part for part in self._parts if part in (SuitePart.CLUSTER, SuitePart.ALONE)]:
            self._on_cluster(on_cluster)
        if SuitePart.PROGRAMS in self._parts and self._tier is Tier.ALL:
            self._programs()
        self._console.print(report(self._steps))
        self._console.print(
            f"The machine was {before}; at the end {machine.measure()}.", highlight=False, soft_wrap=True
        )
        for step in self._steps:
            for test in step.failed:
                result = "FAILED" if step.code else "UNSTEADY (failed beside others, passed alone: mend it)"
                self._console.print(f"{result} {test}", highlight=False, markup=False, soft_wrap=True)
        if not self._ran_tests:
            self._console.print("error: no test ran", highlight=False)
        return max((step.code for step in self._steps), default=0) or (0 if self._ran_tests else NO_TESTS)

    def _step(self, name: str, work: Callable[[], int], part: SuitePart | None = None) -> int:
        self._console.rule(name, align="left")
        began = time.monotonic()
        code = work()
        failed = failed_tests(part) if part is not None else ()
        self._steps.append(Step(name, time.monotonic() - began, code, failed))
        return code

    def _tests(self, part: SuitePart) -> None:
        command = pytest_command(part, self._tier, os.cpu_count() or 1)

        def work() -> int:
            code = _exit_status(command)
            self._ran_tests |= code != NO_TESTS
            if code == TESTS_FAILED and (repeats := repeat_commands(failed_tests(part))):
                self._console.rule(f"{part}: the failed tests again, alone", align="left")
                return next((code for repeat in repeats if (code := _exit_status(repeat))), 0)
            return 0 if code == NO_TESTS else code

        self._step(part, work, part)

    def _programs(self) -> None:
        """The tests that compile for accelerators have an environment of their own, which the Makefile makes."""
        part = SuitePart.PROGRAMS
        self._ran_tests = True  # without tests, make fails
        command = ["make", "programs", f"ARGS={' '.join(record_arguments(part))}"]
        self._step("accelerator programs", lambda: _exit_status(command), part)

    def _on_cluster(self, parts: Sequence[SuitePart]) -> None:
        cluster = open_cluster(progress=self._progress)
        ran_already = cluster.status().ready
        try:
            for name, work in (
                ("images", lambda: builds.make_images(self._tier, self._progress)),
                ("cluster up", cluster.up),
            ):
                if self._step(name, lambda work=work: self._report_error(work)):
                    return
            os.environ[CLUSTER_TESTS_BEGAN] = datetime.now(UTC).isoformat()
            for part in parts:
                self._tests(part)
                if part is SuitePart.CLUSTER and self._tier is Tier.ALL and self._steps[-1].code == 0:
                    os.environ[ALL_CLUSTER_TESTS_RAN] = "1"
        finally:
            if not ran_already:
                self._step("cluster down", lambda: self._report_error(cluster.down))

    def _report_error(self, work: Callable[[], object]) -> int:
        try:
            work()
        except DevclusterError as why:
            self._console.print(f"error: {why}", highlight=False, soft_wrap=True)
            return 1
        return 0


def report(steps: Sequence[Step]) -> Table:
    """What each step took. Pure."""
    table = Table("step", "seconds", "")
    table.columns[1].justify = "right"
    for step in steps:
        table.add_row(step.name, f"{step.seconds:.0f}", f"exit {step.code}" if step.code else "ok")
    table.add_section()
    total = sum(step.seconds for step in steps)
    table.add_row("all", f"{total:.0f}", f"{total / 60:.1f} min")
    return table


def _exit_status(command: Sequence[str]) -> int:
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode
