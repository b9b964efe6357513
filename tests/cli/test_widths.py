"""Tables on terminals of 60, 80 and 200 columns, in pipes, and where only ASCII can be shown."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from halcyon.commands.errors import replace_unencodable
from halcyon.commands.views.tables import FittedTable
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.reading import History, read_history
from halcyon_api.result_documents import CORE_TASKS, TaskNumbers, TaskResults
from halcyon_api.status.run_status import parse_status
from halcyon_cli.history_report import report_of
from halcyon_cli.history_view import comparison_view, history_view, status_view
from halcyon_cli.report import read_report
from halcyon_cli.status_view import Host, report_view, run_view
from tests.cli.test_status_view import NOW, RUNNING
from tests.trainer.telemetry.history.rows import Recorder, group, root, row

NAME = "a-run-whose-name-has-forty-characters-ab"
NUMBER = re.compile(r"\d[\d,./%]*")


def shown(view: RenderableType, width: int, *, terminal: bool = True, encoding: str = "utf-8") -> str:
    """What a console of this width prints, without colours."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict" if encoding == "utf-8" else "halcyon-ascii")
    Console(file=stream, width=width, force_terminal=terminal, color_system=None).print(view)
    stream.flush()
    return raw.getvalue().decode(encoding)


def of_run(_: Path) -> RenderableType:
    return run_view("demo", parse_status(RUNNING), 100, [Host(NAME, "node", "Running", 65.0)], [3.0, 2.0] * 50, NOW)


def of_report(_: Path) -> RenderableType:
    report = read_report(NAME, parse_status(RUNNING))
    assert report is not None
    return report_view(report)


def of_history(folder: Path) -> RenderableType:
    history = history_in(folder)
    return history_view(history, report_of(history, 5000.0))


def of_status(folder: Path) -> RenderableType:
    return status_view(history_in(folder), 5000.0)


def of_comparison(folder: Path) -> RenderableType:
    history = history_in(folder)
    return comparison_view([history, history], 5000.0)


def history_in(folder: Path) -> History:
    """A history with steps, evaluations, tasks, texts and events, and numbers just below 0."""
    store = root(folder / "root", writer="a")
    recorder = Recorder(store.place, group(1, writer="a"), seconds=30.0)
    recorder.flush([row(step, 1234.5678 / step, tokens_per_second=1234567.8, eta_seconds=9.5) for step in range(1, 90)])
    recorder.flush(
        [
            Row("evaluation", 2100.0, {"step": 80, "loss": -1e-9, "bits_per_byte": 0.98765, "seconds": 13.57}),
            Row("task", 2101.0, {"step": 80, "task": "core", "centred": -0.00001, "tasks": 2}),
            Row("task", 2101.0, {"step": 80, "task": "gsm8k", "accuracy": 0.12345, "standard_error": 0.06251}),
            Row("sample", 2102.0, {"step": 80, "prompt": "one and one", "text": " is two"}),
            Row("warning", 2103.0, {"message": "a store did not answer for 1350 seconds"}),
        ]
    )
    return replace(read_history(store), root="file:///runs/tiny")


VIEWS = [of_run, of_report, of_history, of_status, of_comparison]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_no_width_cuts_a_number(view: Callable[[Path], RenderableType], tmp_path: Path) -> None:
    made = view(tmp_path)
    whole = shown(made, 1000, terminal=False)
    numbers = set(NUMBER.findall(whole))
    for width in (60, 80, 200):
        text = shown(made, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert set(NUMBER.findall(re.sub(r"not shown in \d+ columns", "", text))) <= numbers, width
    assert "-0.0000" not in whole
    assert "-0.000" not in whole


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_a_pipe_gets_rows_without_rules_and_without_colours(
    view: Callable[[Path], RenderableType], tmp_path: Path
) -> None:
    text = shown(view(tmp_path), 1000, terminal=False)
    assert "\x1b" not in text
    assert not set("─━│┃┏┓╭") & set(text.replace("━", "" if "progress" in text else "━"))
    assert "not shown" not in text


def test_a_terminal_without_utf_8_gets_ascii(tmp_path: Path) -> None:
    replace_unencodable()
    for view in VIEWS:
        text = shown(view(tmp_path / view.__name__), 80, encoding="ascii")
        assert "?" not in text
        assert "---" in text or view is of_status


def test_columns_are_left_out_by_their_worth_and_named() -> None:
    table = FittedTable("name", "what", numbers=("great", "small"), drops=("great", "what"))
    table.add_row("a" * 20, "some words", "1234567890123", "13.5")
    assert "not shown" not in shown(table, 61)
    text = shown(table, 50)
    assert "not shown in 50 columns: great" in text
    assert "some words" in text
    text = " ".join(shown(table, 36).split())
    assert "not shown in 36 columns: what, great" in text
    assert "13.5" in text


def test_a_mean_over_some_tasks_of_core_is_not_called_core(tmp_path: Path) -> None:
    text = shown(of_history(tmp_path), 200)
    assert f"CORE of 2 of {CORE_TASKS} tasks" in text
    assert not re.search(r"(?i)\bcore +80", text)

    def results(count: int) -> TaskResults:
        tasks = tuple(TaskNumbers(task=f"core/{number}", examples=1, accuracy=0.5) for number in range(count))
        return TaskResults(step=1, prompts="plain", tasks=tasks, core=0.5, time="2026-01-01T00:00:00Z")

    assert results(CORE_TASKS).numbers == {"core": 0.5}
    assert results(2).numbers == {}
