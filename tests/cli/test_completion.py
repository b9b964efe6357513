"""Completion in the shell."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_cli import completion
from halcyon_cli.output import Rejected


class Found:
    def __init__(self, namespace: str | None) -> None:
        self.namespace = namespace

    def list(self) -> list[dict[str, Any]]:
        if self.namespace == "broken":
            raise Rejected("no")
        return [{"metadata": {"name": name}} for name in ("alpha", "alphabet", "beta")]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], ["refresh", "replay", "report", "restart", "resume"]),
        (["report", "al"], ["alpha", "alphabet"]),
        (["report", ""], ["alpha", "alphabet", "beta"]),
        (["report", "--sv"], ["--svg"]),
        (["nonsense", ""], []),
        (["report", "alpha", ""], []),
        (["report", "-n", "broken", ""], []),
        (["compare", "alpha", "b"], ["beta"]),
    ],
)
def test_completion_offers_the_words_that_fit(
    words: list[str], found: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completion, "Runs", Found)
    monkeypatch.setattr("sys.argv", ["kubectl_complete-halcyon", *words])
    completion.main()
    *lines, directive = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == found
    assert directive == ":4"
