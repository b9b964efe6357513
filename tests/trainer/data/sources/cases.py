"""Small sources, and helpers that read all of their rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zstandard

from halcyon.data.sources import Access, Piece, SourceRow, list_files, pieces, read_piece
from halcyon_api.spec.sources import (
    DataSourceSpec,
    FormatSpec,
    JsonlSourceSpec,
    ParquetSourceSpec,
    RowsSpec,
    StdlibSourceSpec,
    TextFormatSpec,
    TextSourceSpec,
)

NOW = Access(pause_seconds=0.0, max_retries=1, retry_seconds=5.0)
"""An access without waits."""


def text_source(*paths: Path | str) -> DataSourceSpec:
    return DataSourceSpec(name="mine", text=TextSourceSpec(paths=[str(path) for path in paths]))


def stdlib_source(*include: Any) -> DataSourceSpec:
    return DataSourceSpec(
        name="stdlib", stdlib=StdlibSourceSpec(include=list(include)) if include else StdlibSourceSpec()
    )


def jsonl_source(*paths: Path | str, start: int = 0, end: int | None = None) -> DataSourceSpec:
    return DataSourceSpec(
        name="web", jsonl=JsonlSourceSpec(paths=[str(path) for path in paths]), rows=RowsSpec(start=start, end=end)
    )


def parquet_source(*paths: Path | str, field: str = "text", start: int = 0, end: int | None = None) -> DataSourceSpec:
    return DataSourceSpec(
        name="web",
        parquet=ParquetSourceSpec(paths=[str(path) for path in paths]),
        rows=RowsSpec(start=start, end=end),
        format=FormatSpec(text=TextFormatSpec(field=field)),
    )


def texts(count: int, first: int = 0) -> list[str]:
    return [f"text {number} äöü " + "x" * (number % 97) for number in range(first, first + count)]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(path.name, data))
    return path


def pack(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data, 1)
    return zstandard.compress(data) if name.endswith(".zst") else data


def all_pieces(source: DataSourceSpec, access: Access = NOW, **options: Any) -> list[Piece]:
    return list(pieces(source, list_files(source, access), access, **options))


def rows_of(made: Sequence[Piece], access: Access = NOW) -> list[SourceRow]:
    return [row for piece in made for row in read_piece(piece, access)]


def values(source: DataSourceSpec, access: Access = NOW, field: str = "text", target_bytes: int = 1000) -> list[Any]:
    rows = rows_of(all_pieces(source, access, target_bytes=target_bytes), access)
    return [row.value[field] if isinstance(row.value, dict) else row.value for row in rows]
