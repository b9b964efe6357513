"""The record of a run, its report, and the forecast before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from halcyon_devcluster.machine import Reading
from tests.suite import forecast, report
from tests.suite.record import Record, Recorder, read
from tests.suite.report import Step
from tests.suite.run import REPEATED, REPEATS, pytest_command, repeat_commands, workers
from tests.suite.tiers import SuitePart, Tier, expression

QUIET, BUSY = Reading(1.0, 0.0, 2), Reading(2.5, 0.3, 2)


def a_report(test: str, when: str, outcome: str = "passed", seconds: float = 1.0) -> pytest.TestReport:
    return pytest.TestReport(test, ("", 0, ""), {}, outcome, None, when, duration=seconds)  # type: ignore[arg-type]


def test_seconds_are_those_of_all_phases_and_a_failed_set_up_is_a_failure(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "folder" / "record.json")
    for when in ("setup", "call", "teardown"):
        recorder.pytest_runtest_logreport(a_report("a.py::one@a.py", when, seconds=2.0))
    recorder.pytest_runtest_logreport(a_report("a.py::two[x::y]", "setup", "failed"))
    recorder.pytest_runtest_logreport(a_report("b.py::three", "setup", "skipped", 0.5))
    recorder.pytest_sessionfinish()
    record = read(tmp_path / "folder" / "record.json")
    assert record.seconds == {"a.py::one": 6.0, "a.py::two[x::y]": 1.0, "b.py::three": 0.5}
    assert record.outcomes == {"passed": 1, "failed": 1, "skipped": 1}
    assert record.failed == ["a.py::two[x::y]"]
    assert record.by_file() == {"a.py": 7.0, "b.py": 0.5}


def test_a_part_that_ended_early_has_an_empty_record(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json") == Record()


def test_the_report_shows_each_step_the_slowest_files_the_machine_and_the_failures() -> None:
    record = Record(
        {f"file{number}.py::test": float(number) for number in range(12)},
        {"passed": 11, "failed": 1},
        ["file3.py::test"],
    )
    steps = [Step("check", 30.0, 0), Step("fast", 90.0, 1, record)]
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    report.show(console, "test", steps, QUIET, BUSY)
    console.file.close()
    text = console.export_text()
    for expected in (
        "check",
        "exit 1",
        "2.0 min",
        "file11.py",
        "FAILED file3.py::test",
        "1.00 times",
        "2.50 times",
        "30% of its",
    ):
        assert expected in text
    assert "file1.py" not in text, "only the ten slowest"
    document = json.loads(json.dumps(report.document("test", steps, QUIET, BUSY)))
    assert document["seconds"] == 120.0
    assert document["machine"] == {"factor": 1.0, "factorAfter": 2.5, "stolen": 0.3}
    assert document["steps"][1] == {
        "name": "fast",
        "seconds": 90.0,
        "code": 1,
        "passed": 11,
        "failed": 1,
        "failures": ["file3.py::test"],
    }
    assert next(iter(document["slowestFiles"].items())) == ("file11.py", 11.0)


def test_the_forecast_warns_where_ci_would_end_the_run() -> None:
    assert "not finish" not in forecast.sentence(Tier.TEST, ["programs", "images"], 1.0)
    assert "not finish" in forecast.sentence(Tier.TEST, ["programs", "images"], 4.5)
    assert forecast.minutes(Tier.TEST, [], 2.0) == 2 * forecast.minutes(Tier.TEST, [], 1.0)
    assert forecast.minutes(Tier.TEST, ["programs"], 1.0) > forecast.minutes(Tier.TEST, [], 1.0)


@pytest.mark.parametrize("part", SuitePart)
def test_each_part_runs_its_own_tests_spread_as_they_can_be(part: SuitePart) -> None:
    command = pytest_command(part, Tier.TEST, 2, Path("record.json"))
    assert command[command.index("-m", 3) + 1] == expression(part, Tier.TEST)
    assert (command[command.index("-n") + 1] == "0") == (part is SuitePart.ALONE)
    assert workers(SuitePart.CLUSTER, 64) == workers(SuitePart.CLUSTER, 2), "all share one node"


def test_a_few_failed_tests_are_repeated_alone_and_must_pass_each_time() -> None:
    commands = repeat_commands(["a.py::one", "a.py::two[x y]", "a.py::one"])
    assert len(commands) == REPEATS
    assert all(command[-4:] == ["-n", "0", "a.py::one", "a.py::two[x y]"] for command in commands)
    assert repeat_commands([]) == []
    assert repeat_commands([f"a.py::{number}" for number in range(REPEATED + 1)]) == []


def test_a_test_that_passed_when_repeated_is_reported_as_unsteady(capsys: pytest.CaptureFixture[str]) -> None:
    record = Record({"a.py::one[red]": 1.0}, {"failed": 1}, ["a.py::one[red]"])
    for code, result in ((0, "UNSTEADY"), (1, "FAILED a.py::one[red]")):
        report.show(Console(width=120), "test", [Step("fast", 9.0, code, record)], QUIET, BUSY)
        assert result in capsys.readouterr().out
