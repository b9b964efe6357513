"""The seconds of each test in a run of pytest, kept as JSON for the report and for comparison with other runs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest


@dataclass
class Record:
    """The figures of one part.

    Attributes:
        seconds: By test id: the sum of set-up, call and tear-down.
        outcomes: The number of tests that passed, failed or were skipped.
        failed: Ids of the failed tests.
    """

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    failed: list[str] = field(default_factory=list[str])

    def by_file(self) -> Counter[str]:
        """Sum of the seconds of each file."""
        files: Counter[str] = Counter()
        for test, seconds in self.seconds.items():
            files[test.partition("::")[0]] += seconds  # type: ignore[assignment]
        return files


def read(path: Path) -> Record:
    """Read a record; an empty one if pytest ended before it wrote the file."""
    try:
        return Record(**json.loads(path.read_text()))
    except FileNotFoundError:
        return Record()


class Recorder:
    """Collects the reports of a pytest session and writes them at its end.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = Record()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of one test."""
        test = report.nodeid.partition("@")[0]
        record = self._record
        record.seconds[test] = record.seconds.get(test, 0.0) + report.duration
        if report.when == "call" or report.outcome != "passed":
            record.outcomes[report.outcome] = record.outcomes.get(report.outcome, 0) + 1
        if report.failed:
            record.failed.append(test)

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(asdict(self._record)))
