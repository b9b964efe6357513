"""What a cache leaves out is counted, reported and limited, and it is part of the identity of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halcyon.data.cache.skipped import Skipped
from halcyon.data.source_notes import source_notes
from halcyon.host.errors import BadConfiguration
from tests.trainer.data.cache.runs import jsonl, ledger_of, spec_of
from tests.trainer.support.datasets import ensure_caches

BAD = 'not "JSON"\n'


def corpus_of(folder: Path, rows: int, *, bad: tuple[int, ...] = (), without_text: tuple[int, ...] = ()) -> Path:
    path = folder / "c.jsonl"
    lines = [json.dumps({"number": n} if n in without_text else {"text": f"text {n}"}) + "\n" for n in range(rows)]
    path.write_text("".join(BAD if n in bad else line for n, line in enumerate(lines)))
    return path


def build(path: Path, **source: Any) -> str:
    """Build the cache of a source; returns what is noted."""
    spec = spec_of(f"file://{path.parent}/root", [jsonl(path, **source)], tokenizer={"bpe": {"vocabSize": 512}})
    caches = ensure_caches(spec, process="p")[1]
    return " ".join(note.message for note in source_notes(caches))


def test_bad_rows_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    path = corpus_of(tmp_path, 100, bad=(3, 50), without_text=(7, 8, 9))
    with pytest.raises(BadConfiguration, match=r"row 3 \(counted from 0\) of .*c\.jsonl is not JSON"):
        build(path)
    note = build(path, onBadRow="skip")
    assert note.startswith("source web leaves out 5 rows that cannot be read. The first: row 3 (counted from 0) of ")
    assert "row 7 (counted from 0) of " in note
    ledger = ledger_of(f"file://{tmp_path}/root")
    assert (ledger.counts.rows, ledger.counts.documents, ledger.shards[0].empty_rows) == (100, 95, 0)


def test_more_than_the_allowed_share_is_an_error(tmp_path: Path) -> None:
    path = corpus_of(tmp_path, 100, bad=tuple(range(20)))
    sentence = (
        r"^spec\.data\.sources\[web\]: 20 of 100 rows cannot be read, more than the share 0\.1 of maxSkipped; fix them, "
        r"or raise maxSkipped\. The first: row 0 \(counted from 0\) of "
    )
    with pytest.raises(BadConfiguration, match=sentence):
        build(path, onBadRow="skip")
    assert "leaves out 20 rows" in build(path, onBadRow="skip", maxSkipped=0.2)


@pytest.mark.parametrize(
    ("skipped", "rows", "files", "finished", "problem"),
    [
        (Skipped(bad_rows=100, examples=("x",)), 999, 1, False, None),
        (Skipped(bad_rows=101, examples=("x",)), 1000, 1, False, "101 of 1,000 rows"),
        (Skipped(bad_rows=100, examples=("x",)), 1000, 1, True, None),
        (Skipped(bad_files=2, examples=("x",)), 5, 19, False, "2 of 19 files"),
        (Skipped(bad_files=1, examples=("x",)), 1, 10, True, None),
        (Skipped(binary_files=9), 9, 9, True, None),
    ],
)
def test_the_share_is_of_rows_and_of_files(
    skipped: Skipped, rows: int, files: int, finished: bool, problem: str | None
) -> None:
    found = skipped.too_many(rows, files, 0.1, finished=finished)
    assert found is None if problem is None else found is not None and found.startswith(problem)


def test_a_folder_of_mixed_files_is_read_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("[core]")
    for number in range(12):
        (folder / f"{number}.md").write_text(f"note {number}")
    (folder / "a.png").write_bytes(b"\x89PNG\x00")
    (folder / "b.log").write_text("log")
    (folder / "latin.md").write_bytes("Köln".encode("latin-1"))

    def noted(**source: Any) -> str:
        files = {"paths": [str(folder)], "exclude": ["*.log"]}
        spec = spec_of(
            f"file://{tmp_path}/root",
            [{"name": "notes", "text": files, **source}],
            tokenizer={"bpe": {"vocabSize": 512}},
        )
        return " ".join(note.message for note in source_notes(ensure_caches(spec, process="p")[1]))

    with pytest.raises(BadConfiguration, match=r"latin\.md is not UTF-8 at byte 1"):
        noted()
    assert noted(onBadFile="skip").startswith(
        "source notes leaves out 1 hidden file or folder, 1 excluded file or folder, 1 binary file, 1 file that cannot "
        "be read. The first: "
    )
    ledger = ledger_of(f"file://{tmp_path}/root", "notes")
    assert (ledger.counts.rows, ledger.counts.documents) == (14, 12)


def test_a_folder_of_pictures_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG\x00")
    spec = spec_of(f"file://{tmp_path}/root", [{"name": "notes", "text": {"paths": [f"{tmp_path}/pictures"]}}])
    with pytest.raises(
        BadConfiguration,
        match=r"\[notes\]: there is no text in 1 file, of which 1 is binary: .*a\.png is a picture, not text; conv",
    ):
        ensure_caches(spec, process="p")


def test_a_bad_first_row_does_not_decide_the_form(tmp_path: Path) -> None:
    talk = {"messages": [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": "42"}]}
    rows = [{"asked": "6*7?"}, *[talk] * 20, {"messages": [{"role": "user", "content": "no answer"}]}]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadConfiguration, match=r"row 0 \(counted from 0\)"):
        build(path, format={"chat": {}})
    note = build(path, format={"chat": {}}, onBadRow="skip")
    assert note.startswith("source web has the form messages")
    assert "; leaves out 2 rows that cannot be read. The first: " in note
