"""The fields in which runs differ, as `halcyon compare` shows them."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from halcyon_cli.differing_runs import differing_fields, differing_view, documents_view


def sections(rate: float, *sources: str, **more: Any) -> dict[str, Any]:
    return {
        "spec.optimizer": {"learningRate": rate, "schedule": {"constant": {}}},
        "spec.data": {"sources": [{"name": name} for name in sources], "validation": {"fraction": 0.1}},
        "data": {"contents": rate},
        **more,
    }


def test_the_fields_of_the_document_that_differ_are_named() -> None:
    runs = [sections(0.1, "a"), sections(0.1, "a"), sections(0.2, "b", "c", **{"spec.from": {"step": 3}})]
    assert differing_fields(runs) == {
        "spec.data.sources[0].name": ("a", "a", "b"),
        "spec.data.sources[1].name": (None, None, "c"),
        "spec.optimizer.learningRate": (0.1, 0.1, 0.2),
    }
    assert differing_fields(runs[:2]) == {}


def test_equal_documents_and_missing_ones_are_named() -> None:
    def shown(*documents: dict[str, Any]) -> str:
        console = Console(file=io.StringIO(), width=200)
        for part in documents_view(["a", "b", "c"], documents):
            console.print(part)
        return console.file.getvalue()  # type: ignore[attr-defined]

    same = sections(1, "x")
    assert shown(same, {}, same).splitlines() == [
        "no field differs in the documents of a, c; contents of data are not compared",
        "b: no checkpoint has recorded its document, so its fields are not compared",
    ]
    assert "no field differs" not in shown(same, {}, {})


def test_a_value_of_a_stranger_changes_no_terminal() -> None:
    console = Console(width=200, record=True)
    console.print(differing_view(["a", "b"], differing_fields([sections(1, "\x1b[2J"), sections(1, "b")])))
    assert "?[2J" in console.export_text()
