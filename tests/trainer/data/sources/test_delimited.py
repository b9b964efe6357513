"""CSV and TSV: the same records as Python's `csv` reads, cut into pieces at any place; and the error for each kind of
bad file.
"""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.forms.form import BadValue
from halcyon.data.sources import row_ends
from halcyon.data.sources.row_ends import RecordScanner, cut_rows, offset_of_row
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec
from tests.trainer.data.sources.cases import all_pieces, pack, rows_of

PLACES = ["", ".gz", ".zst"]


def source(kind: str, *paths: Path, field: str = "text", **rows: int) -> DataSourceSpec:
    document = {kind: {"paths": [str(path) for path in paths]}, "format": {"text": {"field": field}}, "rows": rows}
    return DataSourceSpec.model_validate({"name": "table", **document})


def write(path: Path, rows: Iterable[Sequence[Any]], delimiter: str = ",", line_end: str = "\n") -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    path.write_bytes(pack(path.name, text.getvalue().encode()))
    return path


def texts(count: int, first: int = 0) -> list[str]:
    """Texts with each sign that a record may have inside quotes."""
    return [
        f'row {number}, "said"\nline two\täöü' + "x" * (number % 97) + "\r\n" * (number % 2)
        for number in range(first, first + count)
    ]


def table(rows: list[str]) -> list[tuple[Any, ...]]:
    return [("id", "text", "more"), *((number, text, "z") for number, text in enumerate(rows))]


@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("packed", PLACES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_rows_come_in_order_with_their_numbers(
    tmp_path: Path, kind: str, delimiter: str, packed: str, line_end: str
) -> None:
    first = write(tmp_path / f"a.{kind}{packed}", table(texts(100)), delimiter, line_end)
    second = write(tmp_path / f"b.{kind}{packed}", table(texts(50, 100)), delimiter, line_end)
    made = all_pieces(source(kind, tmp_path), target_bytes=1000)
    assert len(made) > 5
    rows = rows_of(made)
    assert [row.value for row in rows] == [{"text": text} for text in texts(150)], (
        "only the column that the format reads"
    )
    places = [(str(path), number) for path, count in ((first, 100), (second, 50)) for number in range(count)]
    assert [(row.file, row.number) for row in rows] == places
    assert [piece.first_row for piece in made[1:]] == [piece.first_row + piece.rows for piece in made[:-1]]
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301


@pytest.mark.parametrize("start", [0, 1, 57, 99, 100, 101, 149])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_reading_may_begin_and_end_with_any_row(tmp_path: Path, start: int, packed: str) -> None:
    write(tmp_path / f"a.csv{packed}", table(texts(100)))
    write(tmp_path / f"b.csv{packed}", table(texts(50, 100)))
    whole = rows_of(all_pieces(source("csv", tmp_path), target_bytes=1000))
    later = all_pieces(source("csv", tmp_path), start_row=start, target_bytes=1000)
    assert rows_of(later) == whole[start:]
    assert later[0].first_row == start
    part = all_pieces(source("csv", tmp_path, start=start, end=start + 3), target_bytes=1000)
    assert rows_of(part) == whole[start : start + 3]


def test_pieces_do_not_depend_on_the_place_of_the_text(tmp_path: Path) -> None:
    made = [
        all_pieces(source("csv", write(tmp_path / f"{number}.csv{packed}", table(texts(300)))), target_bytes=1000)
        for number, packed in enumerate(PLACES)
    ]
    contents = [
        [(piece.first_row, piece.rows, piece.number, [row.value for row in rows_of([piece])]) for piece in one]
        for one in made
    ]
    assert contents[0] == contents[1] == contents[2]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(['"', ",", "\n", "a", "ü", "\r\n", '""', ' "']), max_size=40).map("".join),
    st.integers(1, 7),
    st.integers(1, 12),
)
def test_records_end_where_the_csv_of_python_ends_them(text: str, chunk: int, target: int) -> None:
    """Whatever the quotes: each block, read alone, has the same records, and a record begins where `offset_of_row`
    says.
    """
    data = text.encode()
    chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    try:
        blocks = list(cut_rows(chunks, RecordScanner(",", "f"), target))
    except row_ends.Unreadable:
        with pytest.raises(csv.Error):
            list(csv.reader(io.StringIO(text, newline="\n"), strict=True))
        return
    expected = read(data)
    assert sum(block.rows for block in blocks) == len(expected)
    assert [record for block in blocks for record in read(block.text)] == expected
    for row in range(len(expected)):
        assert read(data[offset_of_row(chunks, RecordScanner(",", "f"), row) :]) == expected[row:]


def read(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="\n")))


def test_byte_order_marks_blank_lines_and_names_with_blanks(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'\xef\xbb\xbfid, text ,more\r\n1,a,b\r\n\r\n2,"c\r\nd",e')
    rows = rows_of(all_pieces(source("csv", file)))
    assert [(row.number, row.value) for row in rows] == [(0, {"text": "a"}), (2, {"text": "c\r\nd"})]


def test_what_is_not_read_may_be_bad(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"id,text,id\nnan,fine,\xff\n\xff,fine too,1\n")
    assert [row.value for row in rows_of(all_pieces(source("csv", file)))] == [{"text": "fine"}, {"text": "fine too"}]
    file.write_bytes(b"text\nfine\n\xff\n")
    assert [row.value for row in rows_of(all_pieces(source("csv", file)))] == [
        {"text": "fine"},
        {
            "text": BadValue(
                "is not UTF-8 at byte 0 (0xff): 1 of its 1 byte would be replaced",
                "convert the text, for example with iconv -f WINDOWS-1252 -t UTF-8",
            )
        },
    ]


def test_a_long_value_is_read(tmp_path: Path) -> None:
    """Longer than 128 KiB, the default limit of Python's `csv`."""
    long = "x" * 300_000 + "\n" + "y" * 300_000
    file = write(tmp_path / "a.csv", [("text",), (long,), ("short",)])
    assert [row.value for row in rows_of(all_pieces(source("csv", file), target_bytes=1000))] == [
        {"text": long},
        {"text": "short"},
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"id,text\n1,a\n2,b,c\n",
            "row 1 (counted from 0, without the header) of FILE has 3 values for 2 columns; put quotes around",
        ),
        (
            b"id,text\n1,a\n2\n",
            "row 1 (counted from 0, without the header) of FILE has 1 value for 2 columns; put quotes around",
        ),
        (b"id,text\n1,a\rb\n", "row 0 (counted from 0, without the header) of FILE is not readable: "),
        (
            b"id,body\n1,a\n",
            "FILE has no column 'text', only id, body; the first line must be the header; name the column in format, "
            "or",
        ),
        (
            b"id;text\n1;a\n",
            "FILE has no column 'text', only id;text; write commas between its values, which seem to be semicolons",
        ),
        (
            b"id\ttext\n1\ta\n",
            "FILE has no column 'text', only id\ttext; write commas between its values, which seem to be tabs",
        ),
        (b"text,text\na,b\n", "FILE has 2 columns 'text'; give each column a name of its own"),
        (b"id,text\n", "its files have no rows; give files that are not empty, or leave the source out"),
        (b"id,text", "its files have no rows; give files that are not empty, or leave the source out"),
        (b"", "its files have no rows; give files that are not empty, or leave the source out"),
        (
            b'id,text\n1,"a\n2,b\n',
            "FILE ends inside quotes, which begin in its last row; close the quote, or copy the file again",
        ),
        (b'id,"text\n1,a\n', "FILE ends inside quotes"),
        (
            "id,text\n1,a\n".encode("utf-16"),
            "FILE is UTF-16, not UTF-8; convert the text, for example with iconv -f UTF-16 -t UTF-8",
        ),
        (
            b"id,text,\xff\n1,a,b\n",
            "the header of FILE is not UTF-8 at byte 8 (0xff): 1 of its 10 bytes would be replaced; convert the text, "
            "for example with iconv -f WINDOWS-1252 -t UTF-8",
        ),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: bytes, sentence: str, packed: str) -> None:
    file = tmp_path / f"a.csv{packed}"
    file.write_bytes(pack(file.name, content))
    with pytest.raises(BadConfiguration) as refused:
        rows_of(all_pieces(source("csv", file)))
    assert str(refused.value).startswith(f"spec.data.sources[table].csv: {sentence.replace('FILE', str(file))}")


def test_a_quote_that_is_not_closed_does_not_take_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_ends, "LONGEST_RECORD_BYTES", 2**20)
    file = tmp_path / "a.csv"
    file.write_bytes(b'text\n"a\n' + b"b\n" * 2**21)
    with pytest.raises(
        BadConfiguration, match=r"row 0 .counted from 0, without the header. of .*a\.csv is longer than 1 MiB, probably"
    ):
        rows_of(all_pieces(source("csv", file)))


def test_an_empty_file_among_others_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    write(tmp_path / "b.csv", [("text",), ("b",)])
    assert [row.value for row in rows_of(all_pieces(source("csv", tmp_path)))] == [{"text": "b"}]
