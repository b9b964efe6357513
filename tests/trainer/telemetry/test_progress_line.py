"""The progress line on a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from typing import Any

import pytest

from halcyon.telemetry.events import sentence
from halcyon.telemetry.progress_line import duration, line_steps
from tests.suite.limits import limit

SCRIPT = """
import sys
from halcyon.telemetry import RunIdentity, open_log

log = open_log(sys.stdout, RunIdentity("demo"), steps=30)
log.event("joined", processes=2, devices=4, seconds=0.5)
log.event("restored", step=10, path="steps/x/", start="2", seconds=1.0)
log.stage("compiling")
for step in range(11, 31):
    log.event("step", step=step, loss=5 - step / 10, gradient_norm=1.0, learning_rate=0.1, tokens=9.0,
              tokens_per_second=12345.6 if step > 11 else None, eta_seconds=float(30 - step) if step > 11 else None, data_wait_seconds=0.0)
    if step == 20:
        log.event("checkpoint", step=20, path="steps/y/", size_bytes=2_500_000, blocked_seconds=None)
        print("a library says something")
        print("and complains", file=sys.stderr)
log.event("done", step=30, message="all 30 steps are done [really]")
log.close()
print("after the end")
"""

CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def shown(written: str) -> list[str]:
    """The final screen, line by line: a terminal that knows only the controls that the progress line uses."""
    lines, row, column = [""], 0, 0
    for piece in CONTROL.finditer(written):
        argument, command, text = piece[1], piece[2], piece[0]
        if command == "A":
            row -= int(argument or 1)
        elif command == "K":
            assert argument == "2"
            lines[row] = ""
        elif command:
            assert command in "mhl", f"unknown control {text!r}"
        elif text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


def on_terminal(script: str, columns: int = 100) -> str:
    """All output of a program that runs on a terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    seen = b""
    try:
        while select.select([leader], [], [], limit(60))[0]:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # Linux's error after the last writer has closed
                break
            if not piece:
                break
            seen += piece
        assert process.wait(limit(60)) == 0, seen.decode()
    finally:
        os.close(leader)
        if process.poll() is None:
            process.kill()
            process.wait()
    return seen.decode()


@pytest.fixture(scope="module")
def screen() -> str:
    return on_terminal(SCRIPT)


def test_the_line_ends_with_the_last_step(screen: str) -> None:
    *_, line, last = [line for line in shown(screen) if line]
    assert re.fullmatch(r"demo 30/30 ━+ loss 2\.0000  12,346 tok/s  eta 0:00", line)
    assert last == "after the end"
    assert len(line) == 100


def test_events_and_output_of_libraries_are_printed_above_the_line(screen: str) -> None:
    printed = [re.sub(r"^\d\d:\d\d:\d\d [A-Z]+ ", "", line) for line in shown(screen) if line]
    assert [line for line in printed[:-2] if not line.startswith("step ") or ":" in line.partition("  ")[0]] == [
        "2 processes, 4 devices in 0.5 s",
        "start 2: goes on from step 10 (steps/x/)",
        "step 20: checkpoint committed, 2.5 MB",
        "a library says something",
        "and complains",
        "all 30 steps are done [really]",
    ]


def test_a_line_every_few_steps_stays_on_the_screen(screen: str) -> None:
    lines = [line for line in shown(screen) if re.match(r"step \d+/30  ", line)]
    assert [int(re.findall(r"\d+", line)[0]) for line in lines] == list(range(12, 31, 2))
    assert lines[-1] == "step 30/30  smoothed loss 2.6232  12,346 tok/s  0:00 left"
    assert [line_steps(steps) for steps in (1, 20, 21, 250, 10**6)] == [1, 1, 2, 20, 100]


def test_the_cursor_is_shown_again(screen: str) -> None:
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h") > 0


LIVE = """
import sys
from halcyon.telemetry import RunIdentity, open_log

log = open_log(sys.stdout, RunIdentity("{name}"), steps={steps})
{events}
log.close()
"""
FULL = (
    'log.event("step", step=123456, loss=12.5, gradient_norm=1.0, learning_rate=0.1, tokens=9.0, '
    "tokens_per_second=1234567.8, "
    "eta_seconds=12345.0, data_wait_seconds=0.0)"
)


def live(columns: int, *events: str, name: str = "demo", steps: int | None = 1_000_000) -> list[str]:
    """The final text of a progress line."""
    script = LIVE.format(name=name, steps=steps, events="\n".join(events))
    return [line for line in shown(on_terminal(script, columns)) if line]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_wraps(columns: int) -> None:
    long = 'log.event("warning", message="a warning of many words " * 9)'
    *warning, kept, line = live(columns, long, FULL, name="a-name-of-forty-characters-which-is-most")
    assert all(len(shown) <= columns for shown in (*warning, kept, line))
    assert " ".join(" ".join(warning).split()).endswith(" ".join(["a warning of many words"] * 9))
    speed = "" if columns < 72 else "1,234,568 tok/s  "
    assert (
        re.fullmatch(rf"a-name-of-.*… 123456/1000000 [━╸╺ ]*loss 12\.5000  {speed}eta 3:25:45", line) or columns == 200
    )
    speed = "" if columns == 60 else "  1,234,568 tok/s"
    assert kept == f"step 123456/1000000  smoothed loss 12.5000{speed}  3:25:45 left"


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_line_says_what_takes_long_before_the_first_step(columns: int) -> None:
    line = live(columns, 'log.stage("compiling")')[-1]
    assert len(line) <= columns
    full = "compiling the step (first time, about a minute) 0:00"
    assert line.endswith("compiling the step 0:00" if columns == 60 else full)


def test_in_a_pipe_the_lines_are_plain() -> None:
    script = SCRIPT.replace("steps=30)", "steps=30, json_lines=False)")
    written = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in written
    assert "compiling the step (first time, about a minute)\n" in written
    assert "step 30/30  smoothed loss 2.6232  12,346 tok/s  0:00 left\n" in written


def test_times_are_local_and_show_the_zone() -> None:
    log = 'log.event("warning", message="disk full")'
    assert re.match(
        r"\d\d:\d\d:\d\d IST disk full",
        live(80, 'import os, time; os.environ["TZ"] = "IST-5:30"; time.tzset()', log)[0],
    )


def test_an_evaluation_counts_its_batches_alone() -> None:
    restored = 'log.event("restored", step=300, path="steps/x/", seconds=1.0)'
    assert not re.search(r"\d/|waiting", live(80, restored, steps=None)[-1])
    evaluating = 'log.event("evaluating", batch=2, batches=7, tokens_per_second=None, eta_seconds=None)'
    assert "demo 2/7" in live(80, restored, evaluating, steps=None)[-1]


def test_a_finished_run_is_not_shown_as_compiling() -> None:
    compiling = 'log.stage("compiling")'
    assert "compiling" not in live(80, compiling, 'log.event("error", step=30, message="no")', steps=31)[-1]


def test_json_lines_on_a_terminal_where_asked_for() -> None:
    written = on_terminal(SCRIPT.replace("steps=30)", "steps=30, json_lines=True)"))
    assert "\x1b" not in written
    assert written.startswith('{"event":"joined"')


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (42.4, "0:42"),
        (59.6, "1:00"),
        (725, "12:05"),
        (12_000, "3:20:00"),
        (172_799, "47:59:59"),
        (187_200, "2d 4h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("restored", {"step": 0, "path": None, "seconds": 1.25}, "begins at step 0 with new parameters"),
        ("joined", {"processes": 1, "devices": 1, "seconds": 0.0}, "on 1 device"),
        ("fallback", {"step": 20, "reason": "bits flipped"}, "fell back to step 20: bits flipped"),
        (
            "headRebuilt",
            {"step": 20, "reason": "HEAD is empty"},
            "HEAD was rebuilt from the checkpoints: HEAD is empty",
        ),
        (
            "evaluation",
            {"step": 5, "loss": 1.5, "bits_per_byte": 2.16404},
            "step 5: held-out loss 1.5000, 2.1640 bits per byte",
        ),
        ("evaluation", {"step": 5, "loss": 1.5, "bits_per_byte": None}, "step 5: held-out loss 1.5000"),
        ("evaluation", {"step": 5, "loss": 1.5, "sequences": 1}, "step 5: held-out loss 1.5000 of 1 sequence"),
        (
            "evaluation",
            {"step": 5, "loss": -0.25, "reward": 0.25, "pass_at": {"1": 0.25, "4": 0.5}, "sequences": 8},
            "step 5: held-out reward 0.2500 of 8 prompts, pass@1 0.2500, pass@4 0.5000",
        ),
        ("checkpointFailed", {"step": 5, "reason": "disk full"}, "step 5: checkpoint failed: disk full"),
        (
            "exported",
            {"step": 5, "path": "file:///models/step-5", "seconds": 1.0},
            "step 5: exported to file:///models/step-5",
        ),
        ("exportFailed", {"step": 5, "reason": "disk full"}, "step 5: export failed: disk full"),
        ("compiled", {"step": 1, "imports_seconds": 1.0, "compile_seconds": 2.5}, "first step after 3.5 s"),
        (
            "error",
            {"step": 5, "cause": "fenced", "exit_code": 81, "message": "attempt 4 owns the root"},
            "attempt 4 owns the root",
        ),
        ("start", {"process_id": 7}, "process 7"),
        ("start", {"version": "0.1.0", "none": None}, "start: version 0.1.0"),
        (
            "tokenized",
            {"source": "web", "documents": 703, "tokens": 11_106_670, "finished": True},
            "web: 11,106,670 tokens of 703 documents tokenized",
        ),
        ("plan", {"plan": "tensor 1, 121.6 MB", "kernels": {}}, "plan: tensor 1, 121.6 MB"),
        (
            "attention",
            {"implementation": "reference", "reason": "256 positions are few"},
            "attention: reference, because 256 positions are few",
        ),
        ("start", {}, "start"),
    ],
)
def test_events_are_described_in_sentences(name: str, fields: dict[str, Any], text: str) -> None:
    assert sentence(name, fields) == text
