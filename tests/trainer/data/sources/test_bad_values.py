"""Values that cannot be used are errors in the fields that are read, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from halcyon.data.formats import build_formatter
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec
from tests.trainer.data.formats.standin import MarkedBytes
from tests.trainer.data.sources.cases import all_pieces, rows_of

BAD = {
    "null": b"null",
    "NaN": b"NaN",
    "Infinity": b'[{"a": -Infinity}]',
    "half a surrogate pair": b'"a \\ud83d"',
    "half a pair in a name": b'{"\\ude00": 1}',
    "not UTF-8": b'"\xff"',
    "a large number": b"1e999",
}
SENTENCES = {
    "NaN": "has NaN or Infinity, which JSON does not have, in the field 'text'; fix the line",
    "Infinity": "has NaN or Infinity, which JSON does not have, in the field 'text'; fix the line",
    "half a surrogate pair": "has half a surrogate pair in the field 'text'; fix the line",
    "not UTF-8": "is not UTF-8 at byte 10 (0xff): 1 of its 13 bytes would be replaced; convert the text, for example with "
    "iconv -f WINDOWS-1252 -t UTF-8",
}
TALK = b'[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'


def documents(kind: str, file: Path, form: dict[str, Any]) -> list[str]:
    source = DataSourceSpec.model_validate({"name": "rows", kind: {"paths": [str(file)]}, "format": form})
    tokenizer = MarkedBytes()
    return [
        tokenizer.show(one.tokens)
        for one in build_formatter(source.format, tokenizer, where="F")(rows_of(all_pieces(source)))
    ]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("layout", ["lines", "array"])
def test_a_field_that_is_not_read_may_hold_anything(tmp_path: Path, bad: str, layout: str) -> None:
    rows = [b'{"text": "fine", "more": %b, "messages": %b}' % (BAD[bad], TALK)] * 2
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"[" + b",".join(rows) + b"]" if layout == "array" else b"\n".join(rows))
    assert documents("jsonl", file, {"text": {}}) == ["[bos]fine[eos]"] * 2
    talk = "[bos][user_start]Hi[user_end][assistant_start]Hello[assistant_end]"
    assert documents("jsonl", file, {"chat": {}}) == [talk] * 2
    assert documents("jsonl", file, {"chat": {"messagesField": "messages"}}) == [talk] * 2


@pytest.mark.parametrize("bad", SENTENCES)
def test_a_field_that_is_read_is_named_with_its_row(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "fine"}\n{"text": %b}\n' % BAD[bad])
    with pytest.raises(BadConfiguration) as refused:
        documents("jsonl", file, {"text": {}})
    assert str(refused.value) == f"spec.data.sources[rows].jsonl: row 1 (counted from 0) of {file} {SENTENCES[bad]}"


def test_a_conversation_that_is_read_is_named_with_its_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"messages": %b}\n{"messages": %b}\n' % (TALK, TALK.replace(b"Hello", b"\\ud83d")))
    with pytest.raises(
        BadConfiguration, match=r"row 1 .* has half a surrogate pair in the field 'messages'; fix the row"
    ):
        documents("jsonl", file, {"chat": {}})
    file.write_bytes(b'{"prompt": "a", "completion": "b", "system": NaN}\n')
    with pytest.raises(BadConfiguration, match=r"row 0 .* has NaN or Infinity, .* in the field 'system'; fix the row"):
        documents("jsonl", file, {"chat": {}})


def test_a_column_that_is_not_read_may_hold_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    table = {"prompt": ["Hi"], "completion": ["Hello"], "more": bad, "number": [float("nan")]}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    assert documents("parquet", tmp_path / "a.parquet", {"chat": {}}) == [
        "[bos][user_start]Hi[user_end][assistant_start]Hello[assistant_end]"
    ]
    parquet.write_table(pa.table(table | {"completion": bad}), tmp_path / "a.parquet")
    with pytest.raises(
        BadConfiguration,
        match=r"row 0 \(counted from 0\) of .*a\.parquet is not UTF-8 at byte 0 .* in column 'completion'; conv",
    ):
        documents("parquet", tmp_path / "a.parquet", {"chat": {}})
    (tmp_path / "a.csv").write_bytes(b"prompt,completion,more\nHi,Hello,\xff\n")
    assert documents("csv", tmp_path / "a.csv", {"chat": {}}) == [
        "[bos][user_start]Hi[user_end][assistant_start]Hello[assistant_end]"
    ]
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\nHi,\xff\n")
    with pytest.raises(
        BadConfiguration,
        match=r"F\.chat: row 0 \(counted from 0\) of .*a\.csv is not UTF-8 at .* in the field 'completion'; convert",
    ):
        documents("csv", tmp_path / "a.csv", {"chat": {}})
