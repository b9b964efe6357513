"""Parquet: the same rows whether workers read row groups or the parent cuts them; files of another schema are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from halcyon.data.sources.piece import RowGroups, Table
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec, FormatSpec, ParquetSourceSpec, PrebuiltFormatSpec
from tests.trainer.data.sources.cases import all_pieces, parquet_source, rows_of, texts, values


def write(path: Path, columns: dict[str, Any], group_rows: int = 1000) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=group_rows, write_page_checksum=True)
    return path


def numbers(rows: int) -> dict[str, Any]:
    return {"id": list(range(rows)), "text": texts(rows), "embedding": [[0.5] * 8] * rows}


@pytest.mark.parametrize(("group_rows", "kind"), [(20, RowGroups), (300, Table)])
@pytest.mark.parametrize(("start", "end"), [(0, None), (7, 23), (250, 330), (310, None)])
def test_rows_come_in_order_with_their_numbers(
    tmp_path: Path, group_rows: int, kind: type, start: int, end: int | None
) -> None:
    write(tmp_path / "a.parquet", numbers(300), group_rows)
    write(tmp_path / "b.parquet", numbers(100), group_rows)
    source = parquet_source(tmp_path, start=start, end=end)
    made = all_pieces(source, target_bytes=1000 if kind is Table else 4000)
    assert {type(piece.content) for piece in made if piece.file.endswith("a.parquet")} <= {kind}
    rows = rows_of(made)
    places = [
        (f"{tmp_path}/{name}.parquet", number) for name, count in (("a", 300), ("b", 100)) for number in range(count)
    ]
    assert [(row.file, row.number) for row in rows] == places[start:end]
    assert [row.value for row in rows] == [{"text": text} for text in (texts(300) + texts(100))[start:end]]
    assert made[0].first_row == start
    assert [piece.first_row for piece in made[1:]] == [piece.first_row + piece.rows for piece in made[:-1]]
    later = rows_of(all_pieces(source, start_row=start + 5, target_bytes=1000))
    assert later == rows[5:]


def test_token_ids_come_as_arrays(tmp_path: Path) -> None:
    ids: list[Any] = [[1, 2, 3], [], [4], [5, 6]]
    file = write(
        tmp_path / "a.parquet",
        {"tokens": pa.array(ids, pa.list_(pa.uint16())), "w": pa.array([[0.5] * len(one) for one in ids])},
    )
    spec = FormatSpec(prebuilt=PrebuiltFormatSpec(weights_field="w"))
    rows = rows_of(
        all_pieces(
            DataSourceSpec(name="ids", parquet=ParquetSourceSpec(paths=[str(file)]), format=spec, rows={"start": 1})
        )
    )
    assert [row.value["tokens"].tolist() for row in rows if isinstance(row.value, dict)] == ids[1:]
    assert all(isinstance(row.value["w"], np.ndarray) for row in rows if isinstance(row.value, dict))


def test_a_file_of_another_schema_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(3))
    write(tmp_path / "b.parquet", {"id": [1], "content": ["a"]})
    with pytest.raises(BadConfiguration) as refused:
        values(parquet_source(tmp_path))
    assert str(refused.value) == (
        f"spec.data.sources[web].parquet: {tmp_path}/b.parquet has no column 'text', only id, content; "
        "name the column in format, or leave files of another schema out"
    )


@pytest.mark.parametrize("damage", ["truncated", "not parquet", "rotten"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path / "a.parquet", numbers(3000))
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        del data[-100:]
    elif damage == "not parquet":
        data = bytearray(b"text\n" * 100)
    else:
        place = parquet.read_metadata(file).row_group(1).column(1).data_page_offset + 500
        data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        BadConfiguration,
        match=r"^spec\.data\.sources\[web\]\.parquet: .*a\.parquet is truncated, damaged or not a parq",
    ):
        values(parquet_source(file))


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"okb\xff"))
    file = write(tmp_path / "a.parquet", {"text": bad})
    with pytest.raises(
        BadConfiguration,
        match=r"row 1 \(counted from 0\) of .*a\.parquet is not UTF-8 at byte 1 \(0xff\): .* in column 'text'; conv",
    ):
        values(parquet_source(file))


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": pa.array([], pa.string())})
    with pytest.raises(BadConfiguration, match=r"\.parquet: its files have no rows; give files"):
        values(parquet_source(tmp_path))
