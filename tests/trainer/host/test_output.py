"""What a command writes, when nobody reads it: nothing waits, raises, or is cut inside a line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from halcyon.host import output
from tests.suite.limits import limit

LINE = "x" * 9999 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end of a pipe, and the stream of its writing end."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as like:
        yield reading, output.lossy(like, writing)
    os.close(reading)


def test_a_reader_that_stops_reading_loses_whole_lines_and_gets_the_later_ones(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PATIENCE_SECONDS", 0.01)
    reading, stream = pipe[0], output.lossy(pipe[1], pipe[1].fileno())
    for number in range(200):
        stream.write(f"{number} {LINE}")
    stream.write("the last one\n")
    read = os.read(reading, 1 << 20)
    assert len(read) < 100 * len(LINE), "nobody read, so only what the pipe holds was kept"
    stream.write("the reader is back\n")
    lines = (read + os.read(reading, 1 << 20)).decode().splitlines(keepends=True)
    assert lines[-1] == "the reader is back\n"
    assert [line for line in lines[:-1] if line != f"{line.partition(' ')[0]} {LINE}"] == []


def test_a_reader_that_has_left_is_reported_once(pipe: tuple[int, TextIO]) -> None:
    reported: list[OSError] = []
    stream = output.lossy(pipe[1], pipe[1].fileno(), reported.append)
    stream.write("one\n")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, pipe[0])  # closes the reading end
    os.close(null)
    stream.write("two\n")
    stream.write("three\n")
    assert [type(error) for error in reported] == [BrokenPipeError]


def command(arguments: str, redirections: str) -> tuple[int, str]:
    """The exit code of `halcyon`, started by a shell with these redirections, and its standard error."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m halcyon.commands.main {arguments} {redirections}', sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        timeout=limit(60),
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    ["models", *(pytest.param(one, marks=pytest.mark.variant) for one in ("--help", "--version", "dial --depth 4"))],
)
def test_a_command_whose_reader_has_left_ends_quietly_as_by_a_signal(tmp_path: Path, arguments: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    # a pipe without a reader: the shell opens it for both, and closes what reads
    assert command(arguments, f"3<>{tmp_path}/fifo >{tmp_path}/fifo 3>&-") == (output.READER_LEFT, "")


@pytest.mark.slow
@pytest.mark.variant
def test_a_command_whose_output_finds_no_room_says_so() -> None:
    sentence = "standard output cannot be written: No space left on device\n"
    assert command("models", ">/dev/full") == (1, sentence)


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("redirections", [">&-", "<&-", "<&- >&-"])
def test_a_command_without_streams_writes_into_no_other_file(redirections: str) -> None:
    assert command("models", redirections) == (0, "")
