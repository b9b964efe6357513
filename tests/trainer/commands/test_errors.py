"""A fault of the machine is one sentence of a command."""

from __future__ import annotations

import os
import threading

import pytest
import typer

from halcyon.commands.errors import OneSentence, report_errors
from halcyon_api.ends import ExitCode


@pytest.mark.parametrize("said", ["can't start new thread", "another error"])
def test_a_thread_that_cannot_start_is_one_sentence(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError(said)

    def end(code: int) -> None:
        raise SystemExit(code)

    app = typer.Typer(cls=OneSentence)
    app.command("serve")(lambda: threading.Thread(target=print).start())
    app.command("other")(lambda: None)
    monkeypatch.setattr("halcyon.commands.errors.guard_streams", lambda: None)
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit if said.startswith("can't") else RuntimeError) as ended:
        app(["serve"])
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == 1
        assert capsys.readouterr().err.startswith(
            "this machine lets the process start no more threads; raise its limit"
        )


def test_a_part_of_a_character_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """As Python reads a byte of a shell that is not UTF-8."""
    with pytest.raises(typer.Exit) as ended, report_errors():
        "caf\udce9".encode()
    assert ended.value.exit_code == ExitCode.BAD_CONFIGURATION
    said = "a text has a part of a character, '\\udce9', at character 3; fix the text\n"
    assert capsys.readouterr().err == said
