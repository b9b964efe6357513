"""Rows too long for the memory are read part by part, and are the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.sources import LongText, SourceRow, long_text, spill_file
from halcyon.data.sources.long_text import json_slices, parse_long_line
from halcyon.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec
from tests.trainer.data.sources.cases import all_pieces, jsonl_source, pack, rows_of

LIMIT = 64
STRINGS = st.lists(
    st.sampled_from(
        ['"', "\\", "\\\\", "\n", "a", "some words ", "é", "中文", "\U0001f600", "\\ud83d", "u0041", "\x01"]
    ),
    max_size=60,
)


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "LONG_BYTES", LIMIT)
    monkeypatch.setattr(long_text, "_WINDOW_BYTES", 16)


def rows(source: DataSourceSpec) -> list[SourceRow]:
    return rows_of(all_pieces(source, target_bytes=40))


def plain(value: Any) -> Any:
    return value.whole() if isinstance(value, LongText) else value


def as_plain(found: list[SourceRow]) -> list[SourceRow]:
    return [SourceRow(row.file, row.number, {name: plain(value) for name, value in row.value.items()}) for row in found]  # type: ignore[union-attr]


@settings(max_examples=200)
@given(STRINGS.map("".join), st.booleans(), st.integers(16, 80))
def test_slices_of_a_json_string_are_json_strings_and_give_the_whole(text: str, ascii_only: bool, size: int) -> None:
    raw = json.dumps(text, ensure_ascii=ascii_only).encode()[1:-1]
    slices = list(json_slices(memoryview(raw), size))
    assert b"".join(slices) == raw
    assert all(0 < len(part) <= size for part in slices[:-1])
    assert "".join(orjson.loads(b'"%b"' % part) for part in slices) == text


@settings(max_examples=200)
@given(STRINGS.map("".join), STRINGS.map("".join), st.booleans())
def test_a_long_line_is_the_same_row(one: str, two: str, ascii_only: bool) -> None:
    value = {"id": 3, "text": one, "number": 10**15, one or "k": [10**15 + 1, two, {"deep": two}], "other": two}
    line = json.dumps(value, ensure_ascii=ascii_only).encode()
    found = parse_long_line(memoryview(line), "row 1", "field")
    assert {name: plain(member) for name, member in found.items()} == orjson.loads(line)
    raw = {
        name: len(json.dumps(member, ensure_ascii=ascii_only).encode())
        for name, member in value.items()
        if isinstance(member, str)
    }
    long = {name for name, member in found.items() if isinstance(member, LongText)}
    assert long == {name for name, size in raw.items() if size > LIMIT and name in found}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_long_lines_of_files(tmp_path: Path, name: str) -> None:
    values = [{"text": text} for text in ("short", "é" * 300, "", "x\n" * 400, "last")]
    lines = "".join(f"{json.dumps(value)}\n" for value in values).encode()
    (tmp_path / name).write_bytes(pack(name, lines))
    found = rows(jsonl_source(tmp_path / name))
    assert [isinstance(row.value["text"], LongText) for row in found] == [False, True, False, True, False]  # type: ignore[index]
    assert [row.value for row in as_plain(found)] == values
    assert [row.number for row in found] == list(range(5))
    assert not list(Path(spill_file._folder().name).iterdir()), "the temporary files must be removed"


def test_rows_in_the_middle_of_a_spilled_block_can_be_read(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("a", "b", "c", "d" * 500)]
    for name in ("a.jsonl", "a.jsonl.gz"):
        content = "\n".join(lines).encode()
        (tmp_path / name).write_bytes(pack(name, content))
        for start, end in ((1, 3), (2, 4), (0, 2), (3, 4)):
            found = as_plain(rows(jsonl_source(tmp_path / name, start=start, end=end)))
            assert [json.dumps(row.value) for row in found] == lines[start:end]
            assert [row.number for row in found] == list(range(start, end))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "%b\\x"}' % (b"a" * 200), "row 1 .* is not JSON: invalid escape"),
        (b'{"text": "%b\xff%b"}' % (b"a" * 100, b"b" * 100), "row 1 .* is not JSON: "),
        (b'{"text": "%b\\ud800 "}' % (b"a" * 100), "row 1 .* is not JSON: "),
        (b'{"text": "%b' % (b"a" * 100), "row 1 .* is not JSON: "),
        (b'["%b"]' % (b"a" * 100), "row 1 .* is not an object with fields"),
    ],
)
def test_a_bad_long_line_is_named(tmp_path: Path, line: bytes, what: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(BadConfiguration, match=rf"^spec\.data\.sources\[web\]\.jsonl: {what}"):
        as_plain(rows(jsonl_source(tmp_path / "a.jsonl")))


def test_a_long_blank_line_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + b" " * 200 + b'\n{"text": "b"}\n')
    assert [row.number for row in rows(jsonl_source(tmp_path / "a.jsonl"))] == [0, 2]


def test_a_full_disk_for_temporary_files_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_file.SpillFile, "make", lambda: spill_file.SpillFile("/dev/full"))
    (tmp_path / "a.jsonl.gz").write_bytes(pack("a.jsonl.gz", json.dumps({"text": "a" * 9000}).encode()))
    with pytest.raises(BadConfiguration) as refused:
        rows(jsonl_source(tmp_path / "a.jsonl.gz"))
    assert str(refused.value) == (
        "spec.data.sources[web].jsonl: a text too long for memory cannot be written to /dev/full: No space left on "
        "device; free some space there, or set TMPDIR to a folder on a larger disk"
    )
