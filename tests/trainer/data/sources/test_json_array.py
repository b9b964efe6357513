"""One JSON array in a file: its elements are the rows, as if each was a line; lists of messages on lines are rows
too.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.sources.row_ends import ElementScanner, cut_rows, offset_of_row
from halcyon.data.sources.row_forms import elements
from halcyon.host.errors import BadConfiguration
from tests.trainer.data.sources.cases import all_pieces, jsonl_source, pack, rows_of, write_jsonl

ROWS = [
    {"text": f'row {number} ]}}[{{ "\\" äöü \n' + "x" * (number % 97), "more": [{"a": []}, {}]} for number in range(150)
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ending", [".json", ".json.gz", ".jsonl"])
def test_the_elements_are_the_rows_of_lines(tmp_path: Path, indent: int | None, ending: str) -> None:
    lines = rows_of(all_pieces(jsonl_source(write_jsonl(tmp_path / "lines.jsonl", ROWS)), target_bytes=1000))
    file = tmp_path / f"a{ending}"
    file.write_bytes(pack(file.name, b"\xef\xbb\xbf" + json.dumps(ROWS, indent=indent).encode() + b"\r\n"))
    made = all_pieces(jsonl_source(file), target_bytes=1000)
    assert len(made) > 5
    assert [(row.number, row.value) for row in rows_of(made)] == [(row.number, row.value) for row in lines]
    for start in (0, 1, 77, 149):
        assert rows_of(all_pieces(jsonl_source(file), start_row=start, target_bytes=1000)) == rows_of(made)[start:]
        assert (
            rows_of(all_pieces(jsonl_source(file, start=start, end=start + 2), target_bytes=1000))
            == rows_of(made)[start : start + 2]
        )


@settings(max_examples=200)
@given(
    st.lists(
        st.recursive(
            st.text('"\\[]{},a ü\n'), lambda inner: st.lists(inner) | st.dictionaries(st.text('"\\[]{},a'), inner)
        ).map(lambda one: [one])
    ),
    st.integers(1, 9),
    st.integers(1, 20),
    st.sampled_from([None, 1]),
)
def test_elements_end_where_a_parser_ends_them(rows: list[Any], chunk: int, target: int, indent: int | None) -> None:
    data = b" " + json.dumps(rows, indent=indent, ensure_ascii=False).encode() + b"\n"
    chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    blocks = list(cut_rows(chunks, ElementScanner("f"), target))
    found = [
        [json.loads(one) for one in elements("f", block.text, first=not number)] for number, block in enumerate(blocks)
    ]
    assert [one for block in found for one in block] == rows
    assert [len(block) for block in found] == [block.rows for block in blocks]
    for row in range(len(rows)):
        rest = data[offset_of_row(chunks, ElementScanner("f"), row) :]
        assert [json.loads(one) for one in elements("f", rest, first=row == 0)] == rows[row:]


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_a_line_may_be_a_list_of_messages(tmp_path: Path) -> None:
    """As in nanochat; also if the file has one line only."""
    for rows in ([TALK], [TALK] * 3, [[{"from": "human", "value": "Hi"}]] * 2):
        found = rows_of(all_pieces(jsonl_source(write_jsonl(tmp_path / "a.jsonl", rows))))
        assert [row.value for row in found] == [{"messages": messages} for messages in rows]
    (tmp_path / "b.json").write_text(json.dumps([TALK] * 3))
    assert [row.value for row in rows_of(all_pieces(jsonl_source(tmp_path / "b.json")))] == [{"messages": TALK}] * 3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b'[{"text": "a"}, {"text": "b"}',
            "FILE is truncated: its JSON array does not end; copy it again or leave it out",
        ),
        (
            b'[{"text": "a"}, "b"]',
            "row 1 (counted from 0) of FILE is not an object in a JSON array; write [{…}, {…}], or one object on",
        ),
        (b'[{"text": "a"}, 7, {"text": "b"}]', "row 1 (counted from 0) of FILE is not an object in a JSON array"),
        (b'[{"text": "a"} {"text": "b"}]', "row 1 (counted from 0) of FILE is not an object in a JSON array"),
        (
            b'[{"text": "a"}]\n{"text": "b"}',
            "FILE goes on after the end of its JSON array; write one array, or one object on each line",
        ),
        (b'[{"text": "a"}, {"text" "b"}]', "row 1 (counted from 0) of FILE is not JSON: "),
        (b"[[1, 2], [3]]", "row 0 (counted from 0) of FILE is not an object with fields; write {"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_array_is_one_sentence(tmp_path: Path, content: bytes, sentence: str, packed: bool) -> None:
    file = tmp_path / ("a.json.gz" if packed else "a.json")
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(BadConfiguration) as refused:
        rows_of(all_pieces(jsonl_source(file), target_bytes=1))
    assert str(refused.value).startswith(f"spec.data.sources[web].jsonl: {sentence.replace('FILE', str(file))}")
