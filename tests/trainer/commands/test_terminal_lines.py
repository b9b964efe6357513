"""What a long command says while it works."""

from __future__ import annotations

import sys
import threading

import pytest

from halcyon.commands.terminal import each_minute
from tests.suite.limits import limit


def test_a_long_command_says_what_it_does_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    twice = threading.Event()

    class Errors:
        def write(self, text: str) -> None:
            lines.append(text)
            if len(lines) > 1:
                twice.set()

        def flush(self) -> None:
            return None

    monkeypatch.setattr(sys, "stderr", Errors())
    doing = ["first"]
    with each_minute(lambda: f"compiling: {doing[-1]}", seconds=0.001):
        assert twice.wait(limit(60))
    written = len(lines)
    assert set(lines) == {"compiling: first\n"}
    with each_minute(lambda: "never"):
        pass
    assert len(lines) == written, "a command that takes less than a minute says nothing"
