"""JSON Lines, plain and compressed: the same rows with the same numbers, from any row on; and the error for each kind
of damage.
"""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import pytest
import zstandard

from halcyon.data.sources import list_files, pieces, read_piece
from halcyon.data.sources.files import read_range
from halcyon.data.sources.piece import FilePlace
from halcyon.host.errors import BadConfiguration
from tests.trainer.data.sources.cases import NOW, all_pieces, jsonl_source, pack, rows_of, texts, values, write_jsonl


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_rows_come_in_order_with_their_numbers(tmp_path: Path, ending: str) -> None:
    first = write_jsonl(tmp_path / f"a{ending}", ({"text": text} for text in texts(100)))
    second = write_jsonl(tmp_path / f"b{ending}", ({"text": text} for text in texts(50, 100)))
    made = all_pieces(jsonl_source(tmp_path), target_bytes=1000)
    assert len(made) > 5
    assert [row.value["text"] for row in rows_of(made) if isinstance(row.value, dict)] == texts(150)
    assert [(row.file, row.number) for row in rows_of(made)] == [
        *((str(first), number) for number in range(100)),
        *((str(second), number) for number in range(50)),
    ]
    assert [piece.first_row for piece in made[1:]] == [piece.first_row + piece.rows for piece in made[:-1]]
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301


def test_pieces_do_not_depend_on_compression_or_place(tmp_path: Path) -> None:
    made = [
        all_pieces(
            jsonl_source(write_jsonl(tmp_path / name, ({"text": text} for text in texts(300)))), target_bytes=1000
        )
        for name in ("1.jsonl", "2.jsonl.gz", "3.jsonl.zst")
    ]
    contents = [
        [(piece.first_row, piece.rows, piece.number, [row.value for row in rows_of([piece])]) for piece in one]
        for one in made
    ]
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("start", [0, 1, 99, 100, 101, 140, 149])
def test_a_reading_may_begin_with_any_row(tmp_path: Path, start: int) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", ({"text": text} for text in texts(100)))
    write_jsonl(tmp_path / "b.jsonl", ({"text": text} for text in texts(50, 100)))
    source = jsonl_source(tmp_path)
    whole = rows_of(all_pieces(source, target_bytes=1000))
    assert rows_of(all_pieces(source, start_row=start, target_bytes=1000)) == whole[start:]
    assert all_pieces(source, start_row=start, target_bytes=1000)[0].first_row == start
    # If the file of the first row is known, the files before it are not opened.
    files = list_files(source, NOW)
    begin = FilePlace(str(first), 0)
    if start >= 100:
        first.unlink()
        begin = FilePlace(str(tmp_path / "b.jsonl"), 100)
    assert rows_of(list(pieces(source, files, NOW, start_row=start, begin=begin, target_bytes=1000))) == whole[start:]


@pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 7), (95, 105), (100, 150), (149, None), (10, 1000)])
def test_a_part_of_the_rows(tmp_path: Path, start: int, end: int | None) -> None:
    write_jsonl(tmp_path / "a.jsonl.gz", ({"text": text} for text in texts(100)))
    write_jsonl(tmp_path / "b.jsonl.gz", ({"text": text} for text in texts(50, 100)))
    assert values(jsonl_source(tmp_path, start=start, end=end)) == texts(150)[start:end]
    made = (
        all_pieces(jsonl_source(tmp_path, start=start, end=end), start_row=start + 1, target_bytes=1000)
        if end != 1
        else []
    )
    assert [row.value["text"] for row in rows_of(made) if isinstance(row.value, dict)] == texts(150)[
        start + 1 : end
    ] or not made


def test_files_of_several_members_are_read_to_the_end(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in texts(4)]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(gzip.compress(line) for line in lines) + bytes(512))
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(zstandard.compress(line) for line in lines))
    assert values(jsonl_source(tmp_path)) == texts(4) * 2


def test_blank_lines_byte_order_marks_and_carriage_returns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n\n{"text": "b"}')
    made = all_pieces(jsonl_source(tmp_path), target_bytes=1000)
    assert [(row.number, row.value) for row in rows_of(made)] == [(0, {"text": "a"}), (3, {"text": "b"})]
    assert [piece.rows for piece in made] == [4]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"text": "abc', "is not JSON: "),
        (b'{"text": "\xff"}', "is not UTF-8 at byte 10 (0xff): 1 of its 13 bytes would be replaced; convert the text"),
        (
            b'{\n  "text": "a"\n}',
            "is not JSON: its object goes on in the next lines; fix the file: write each object on one line, or",
        ),
        (b'["text"]', "is not an object with fields; write {…} on each line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, sentence: str) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "fine"}\n' * 170 + line + b'\n{"text": "fine"}\n'))
    with pytest.raises(BadConfiguration) as refused:
        rows_of(all_pieces(jsonl_source(file), target_bytes=1000))
    assert str(refused.value).startswith(f"spec.data.sources[web].jsonl: row 170 (counted from 0) of {file} {sentence}")


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9999])
def test_a_truncated_file_is_refused_not_shortened(tmp_path: Path, ending: str, kept: float) -> None:
    file = write_jsonl(tmp_path / f"a.jsonl.{ending}", ({"text": text} for text in texts(5000)))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BadConfiguration) as refused:
        all_pieces(jsonl_source(file))
    kind = {"gz": "gzip", "zst": "zstd"}[ending]
    assert str(refused.value) == (
        f"spec.data.sources[web].jsonl: {file} is truncated: it ends inside a {kind} stream; copy it again or leave it "
        "out"
    )


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_damaged_file_is_refused(tmp_path: Path, ending: str) -> None:
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts(2000))
    compressed = (
        pack(f".{ending}", lines) if ending == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(lines)
    )
    file = tmp_path / f"a.jsonl.{ending}"
    file.write_bytes(compressed[: len(compressed) // 2] + b"\x55\xaa" + compressed[len(compressed) // 2 + 2 :])
    with pytest.raises(
        BadConfiguration, match=rf"^spec\.data\.sources\[web\]\.jsonl: .*a\.jsonl\.{ending} is damaged or not a "
    ):
        all_pieces(jsonl_source(file))
    file.write_bytes(b'{"text": "not compressed at all"}\n')
    with pytest.raises(BadConfiguration, match="is damaged or not a "):
        all_pieces(jsonl_source(file))


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_a_source_without_rows_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a{ending}").write_bytes(pack(ending, b""))
    with pytest.raises(
        BadConfiguration, match=r"^spec\.data\.sources\[web\]\.jsonl: its files have no rows; give files"
    ):
        all_pieces(jsonl_source(tmp_path))


def test_a_part_beyond_the_end_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}] * 5)
    with pytest.raises(BadConfiguration, match=r"rows\.start is 5, but there are only 5 rows; lower it"):
        all_pieces(jsonl_source(tmp_path, start=5))


def test_a_file_that_disappears_is_read_once_more(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    (file,) = list_files(jsonl_source(path), NOW)
    away = path.rename(tmp_path / "away")
    assert read_range(file, 0, 5, NOW, pause=lambda _: (away.rename(path), None)[1]) == b'{"tex'
    pauses: list[float] = []
    path.unlink()
    with pytest.raises(Exception, match="was listed and is gone"):
        read_range(file, 0, 5, NOW, pause=pauses.append)
    assert pauses == [NOW.pause_seconds]


@pytest.mark.parametrize("change", ["gone", "replaced", "shortened"])
def test_a_file_that_changes_while_it_is_read_ends_the_reading(tmp_path: Path, change: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", ({"text": text * 50} for text in texts(5000)))
    source = jsonl_source(file)
    reading = pieces(source, list_files(source, NOW), NOW)
    first = next(reading)
    assert read_piece(first, NOW)
    if change == "gone":
        file.unlink()
    elif change == "replaced":
        write_jsonl(file, ({"text": text * 50} for text in texts(5000, 1)))
    else:
        file.write_bytes(file.read_bytes()[:4_200_000])
    with pytest.raises(BadConfiguration) as refused:
        list(reading)
    with pytest.raises(BadConfiguration, match=r"is gone|changed after it was listed"):
        read_piece(first, NOW)
    expected = {
        "gone": "was listed and is gone; put it back, or start again without it",
    }.get(change, "changed after it was listed; leave the files alone while they are read, and start again")
    assert str(refused.value) == f"spec.data.sources[web].jsonl: {file} {expected}"
