"""Texts of a model do not control the terminal; files and pipes get them as they are."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from halcyon.commands.texts import _Written, write_text

_HOSTILE = "a\x1b[2J\x1b]52;c;aGk=\x07b\r\x9b31m\u202ec\td\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    write_text(_HOSTILE)
    assert sys.stdout.getvalue() == "a\u241b[2J\u241b]52;c;aGk=\u2407b\u240d\ufffd31m\ufffdc\td\n"  # type: ignore[attr-defined]


def test_a_pipe_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    write_text(_HOSTILE)
    assert capsys.readouterr().out == _HOSTILE


def test_the_texts_of_a_sample_are_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    piece: Any = SimpleNamespace(sequence=0, text=_HOSTILE, finish="stop")
    _Written(["\x1b[1mprompt"]).add(piece)
    assert "\x1b" not in sys.stdout.getvalue()  # type: ignore[attr-defined]
