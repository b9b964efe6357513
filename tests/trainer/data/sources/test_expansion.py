"""Parquet files whose texts are repeated: the same rows, a bounded part of them in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from halcyon.data.sources import expansion, read_piece, read_pieces
from halcyon.data.sources.expansion import Expands, row_bytes
from halcyon.data.sources.piece import RowGroups, Table
from halcyon.host.errors import BadConfiguration
from tests.trainer.data.sources.cases import NOW, all_pieces, parquet_source

_LONG = "a" * 100_000


def _write(path: Path, columns: dict[str, Any]) -> None:
    parquet.write_table(pa.table(columns), path, compression="zstd", row_group_size=2**22)


def _repeated(rows: int, text: str = _LONG) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def test_row_groups_that_are_too_large_in_memory_are_cut(tmp_path: Path) -> None:
    rows = 3000
    _write(tmp_path / "a.parquet", {"text": _repeated(rows), "id": list(range(rows))})
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    source = parquet_source(tmp_path, start=5, end=rows - 5)
    made = all_pieces(source)
    assert [type(piece.content) for piece in made] == [RowGroups]
    with pytest.raises(Expands):
        read_piece(made[0], NOW)
    number = 5
    for part in read_pieces(made, NOW):
        assert sum(len(row.value["text"]) for row in part if isinstance(row.value, dict)) <= expansion.MOST_BYTES
        assert [row.number for row in part] == list(range(number, number + len(part)))
        number += len(part)
    assert number == rows - 5


def test_millions_of_short_rows_are_cut_by_the_parent(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", {"text": _repeated(2_000_000, "a")})
    made = all_pieces(parquet_source(tmp_path))
    assert {type(piece.content) for piece in made} == {Table}
    assert max(piece.rows for piece in made) <= 2**17


@pytest.mark.parametrize("nested", [False, True])
def test_a_row_that_repeats_a_text_too_often_is_a_sentence(tmp_path: Path, nested: bool) -> None:
    value = pa.array([[{"content": _LONG}] * 1000] if nested else [[_LONG] * 1000])
    _write(tmp_path / "a.parquet", {"text": value})
    with pytest.raises(
        BadConfiguration,
        match=r"a\.parquet has a row of 95 MiB at place 0 of a row group of 1\d\d,\d\d\d bytes, because",
    ):
        list(read_pieces(all_pieces(parquet_source(tmp_path)), NOW))


def test_bytes_of_rows_count_each_text_where_it_stands() -> None:
    names = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array(["ab", "cdefg"]))
    lists = pa.array([["abc"], [], None, ["a", "bc"]])
    structs = pa.array([{"a": "x", "b": 1}, None, {"a": "xyz", "b": 2}, {"a": None, "b": 3}])
    maps = pa.array([[("k", "vv")], [], None, [("a", "b"), ("c", "d")]], pa.map_(pa.string(), pa.string()))
    assert row_bytes(pa.table({"names": names, "lists": lists}).slice(1)).tolist() == [13 + 8, 10 + 8, 10 + 8 + 9 + 10]
    nested = row_bytes(pa.table({"structs": structs, "maps": maps}).slice(1)).tolist()
    assert len(nested) == 3
    assert nested[1] - nested[0] >= len("xyz")
    assert nested[2] - nested[0] >= len("abcd")


def test_a_text_of_its_own_size_is_no_expansion(tmp_path: Path) -> None:
    text = "".join(map(str, range(500_000)))
    _write(tmp_path / "a.parquet", {"text": [text * 30]})
    (rows,) = read_pieces(all_pieces(parquet_source(tmp_path)), NOW)
    assert isinstance(rows[0].value, dict)
    assert len(rows[0].value["text"]) == len(text) * 30
