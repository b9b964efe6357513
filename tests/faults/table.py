"""Makes the table of docs/reliability.md from a run of the tests with the marker `fault`.

A test counts its trials through the fixture `trials`. The counts are part of the test's report, so they also arrive
from the workers of xdist. With ``--reliability PAGE`` the run writes the table between the two marks of the page. It
replaces only the rows whose tests all ran.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults import rows
from tests.page_block import block, write_block

HEADER = "| fault | what must hold | what was done | held | tests |\n|---|---|---|---|---|"
_MARK, _TRIAL = "fault", "trial"
REPOSITORY = Path(__file__).parents[2]


class Trials:
    """The trials of a test, counted by kind: ``trials.count("kills while saving")``."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def count(self, kind: str, number: int = 1) -> None:
        """Add to the number of trials of a kind. The kind is a plural noun, such as "kills while saving"."""
        self._properties.append((_TRIAL, [kind, number]))


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Trials:
    """Counts the trials of a test with the marker `fault`."""
    assert request.node.get_closest_marker(_MARK), "only tests with the marker `fault` count trials"
    return Trials(request.node.user_properties)


@dataclass
class FaultRow:
    """One row, which a run fills."""

    fault: str
    holds: str
    done: Counter[str] = field(default_factory=Counter)
    tests: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)

    def held(self) -> str:
        """The column "held"."""
        if self.failed:
            return f"**no**: {', '.join(sorted(self.failed))}"
        return f"yes; not run here: {', '.join(sorted(self.skipped))}" if self.skipped else "yes"

    def line(self) -> str:
        """The row as a line of the page."""
        done = ", ".join(f"{kind}: {number:,}" for kind, number in sorted(self.done.items()))
        tests = "<br>".join(f"`{test}`" for test in sorted(self.tests))
        return f"| {self.fault} | {self.holds} | {done} | {self.held()} | {tests} |"


class Table:
    """Collects reports, and writes the page at the end."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._rows = {
            mark.kwargs["row"]: FaultRow(mark.kwargs["row"], mark.kwargs["holds"]) for mark in all_marks().values()
        }
        self._written: list[FaultRow] = []

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of one test."""
        marks = [str(value) for name, value in report.user_properties if name == _MARK]
        for row in (self._rows[mark] for mark in marks):
            test = report.nodeid.split("[")[0]
            row.tests.add(test)
            if report.failed:
                row.failed.add(test)
            if report.skipped:
                row.skipped.add(test)
            if report.when == "call" and report.passed:
                for kind, number in (value for name, value in report.user_properties if name == _TRIAL):  # type: ignore[misc]
                    row.done[kind] += number

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the rows whose tests all ran, and keep the others."""
        table = block(self._page.read_text(), "table")
        lines = {line.strip("|").split(" | ")[0].strip(): line for line in table.splitlines()[2:]}
        marked = marked_tests()
        self._written = [row for row in self._rows.values() if row.tests == marked[row.fault]]
        lines |= {row.fault: row.line() for row in self._written}
        body = "\n".join(lines[fault] for fault in self._rows if fault in lines)
        write_block(self._page, "table", f"{HEADER}\n{body}")

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was written to the page."""
        for row in self._rows.values():
            if row in self._written:
                terminalreporter.write_line(f"{self._page}: {row.fault}: {row.held()}")
            elif row.tests:
                terminalreporter.write_line(
                    f"{self._page}: {row.fault}: not written, because not all of its tests ran", yellow=True
                )


def add_rows(items: Iterable[pytest.Item]) -> None:
    """Add the rows of each test to its report."""
    for item in items:
        for mark in item.iter_markers(_MARK):
            item.user_properties.append((_MARK, mark.kwargs["row"]))


def all_marks() -> dict[str, pytest.Mark]:
    """The marks of `rows`, by name."""
    return {name: value.mark for name, value in vars(rows).items() if isinstance(value, pytest.MarkDecorator)}


def marked_tests(folder: Path = REPOSITORY / "tests") -> dict[str, set[str]]:
    """By fault, the tests that are marked with it in the source: ``tests/…/test_file.py::test_name``."""
    found: dict[str, set[str]] = {mark.kwargs["row"]: set() for mark in all_marks().values()}
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text()
        if "rows." not in text:
            continue
        module = ast.parse(text)
        everywhere = [
            name
            for node in module.body
            if isinstance(node, ast.Assign) and _is_pytestmark(node)
            for name in _marks_in(node.value)
        ]
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for name in {
                    *everywhere,
                    *(name for decorator in node.decorator_list for name in _marks_in(decorator)),
                }:
                    found[all_marks()[name].kwargs["row"]].add(f"{path.relative_to(REPOSITORY)}::{node.name}")
    return found


def tabled_tests(page: Path) -> dict[str, set[str]]:
    """By fault, the tests that the table of a page names."""
    table = block(page.read_text(), "table").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return {row[0]: {test.strip("` ") for test in row[4].split("<br>")} for row in cells}


def _is_pytestmark(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)


def _marks_in(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and child.value.id == "rows":
            yield child.attr
