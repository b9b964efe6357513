"""What is left out of a source: hidden, excluded and binary files, and, if the document says so, what cannot be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from halcyon.data.sources import SourceRow
from halcyon.data.sources.listing import list_source
from halcyon.data.sources.piece import LeftOut
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec
from tests.trainer.data.sources.cases import NOW, all_pieces, rows_of

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
JPEG_WITHOUT_NUL = b"\xff\xd8\xff\xe1\x01\x02\x03 Exif"
NO_TEXT = {
    "a.docx": b"PK\x03\x04\x14\x00\x06\x00",
    "a.pdf": b"%PDF-1.4\n% all of it is ASCII at the beginning\n" + b"1 0 obj\n" * 2000,
    "a.png": PNG,
    "a.rtf": b"{\\rtf1 text}",
    "b.jpg": JPEG_WITHOUT_NUL,
    "e.png.gz": gzip.compress(PNG),
}
LATIN_1 = "Grüße aus Köln\n".encode("latin-1")


def source(kind: str, *paths: Path, exclude: tuple[str, ...] = (), **more: Any) -> DataSourceSpec:
    files = {"paths": [str(path) for path in paths], "exclude": list(exclude)}
    return DataSourceSpec.model_validate({"name": "mine", kind: files, **more})


def put(root: Path, *names: str, content: bytes = b"text") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names(root: Path, one: DataSourceSpec) -> tuple[list[str], int, int]:
    """The listed files, and the numbers of hidden and of excluded files and folders."""
    listing = list_source(one, NOW)
    return [str(Path(file.uri).relative_to(root)) for file in listing.files], listing.hidden, listing.excluded


def left_out(rows: list[SourceRow]) -> list[tuple[str, str, str]]:
    return [(Path(row.file).name, row.value.kind, row.value.problem) for row in rows if isinstance(row.value, LeftOut)]


def test_hidden_files_and_folders_are_left_out_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path, ".git/config", ".git/objects/ab", ".hidden", "a.txt", "notes/.b.swp", "notes/b.txt")
    assert names(tmp_path, source("text", tmp_path)) == (["a.txt", "notes/b.txt"], 3, 0)


def test_a_hidden_folder_or_file_that_is_named_is_taken(tmp_path: Path) -> None:
    put(tmp_path, ".notes/a.txt", ".b")
    assert names(tmp_path, source("text", tmp_path / ".notes", tmp_path / ".b")) == ([".notes/a.txt", ".b"], 0, 0)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["*.log"], ["a.txt", "drafts/b.txt", "drafts/old/c.txt"]),
        (["drafts"], ["a.txt", "d.log"]),
        (["drafts/"], ["a.txt", "d.log"]),
        (["old"], ["a.txt", "d.log", "drafts/b.txt"]),
        (["drafts/*.txt"], ["a.txt", "d.log", "drafts/old/c.txt"]),
        (["drafts/**"], ["a.txt", "d.log"]),
        (["**/c.txt"], ["a.txt", "d.log", "drafts/b.txt"]),
    ],
)
@pytest.mark.parametrize("pattern", ["", "**/*"])
def test_exclude_leaves_out_files_and_folders(
    tmp_path: Path, exclude: list[str], left: list[str], pattern: str
) -> None:
    put(tmp_path, "a.txt", "d.log", "drafts/b.txt", "drafts/old/c.txt")
    found, _, excluded = names(tmp_path, source("text", tmp_path / pattern, exclude=tuple(exclude)))
    assert found == left
    assert excluded > 0


def test_a_path_from_the_beginning_can_be_excluded(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "drafts/b.txt")
    assert names(tmp_path, source("text", tmp_path, exclude=(f"{tmp_path}/drafts",)))[0] == ["a.txt"]


def test_a_folder_without_a_file_that_is_left_is_reported(tmp_path: Path) -> None:
    put(tmp_path, ".git/config", "a.log")
    with pytest.raises(BadConfiguration, match=r"has only hidden or excluded files; give others, or exclude fewer$"):
        list_source(source("text", tmp_path, exclude=("*.log",)), NOW)


def test_files_of_a_folder_with_other_endings_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", "b.json", "below/c.md", content=b'{"text": "a"}\n')
    assert list_source(source("jsonl", tmp_path), NOW).others == 2
    with pytest.raises(
        BadConfiguration, match=r"has no file that ends with \.csv .*, only 3 other files; name files with"
    ):
        list_source(source("csv", tmp_path), NOW)


def test_a_file_of_a_folder_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    for name, content in NO_TEXT.items():
        put(tmp_path, name, content=content)
    put(tmp_path, "c.txt", content="Grüße".encode())
    put(tmp_path, "d.txt", content=b"a" * 8191 + "ü".encode())
    put(tmp_path, "f.txt", content=b"\x1b[31mred\x1b[0m\x07")
    found = left_out(rows_of(all_pieces(source("text", tmp_path))))
    assert [(name, kind) for name, kind, _ in found] == [(name, "binary") for name in sorted(NO_TEXT)]


@pytest.mark.parametrize("kind", ["text", "jsonl", "csv"])
@pytest.mark.parametrize("name", NO_TEXT)
def test_a_named_file_that_is_no_text_is_refused_with_the_way_out(tmp_path: Path, kind: str, name: str) -> None:
    put(tmp_path, name, content=NO_TEXT[name])
    with pytest.raises(BadConfiguration) as refused:
        rows_of(all_pieces(source(kind, tmp_path / name)))
    assert str(refused.value).startswith(f"spec.data.sources[mine].{kind}: {tmp_path / name} is ")
    assert ", not text; convert it first" in str(refused.value)
    if kind == "text":
        ((_, left, _),) = left_out(rows_of(all_pieces(source(kind, tmp_path / name, onBadFile="skip"))))
        assert left == "file"


def test_a_pdf_is_named_with_its_tool(tmp_path: Path) -> None:
    put(tmp_path, "a.pdf", content=NO_TEXT["a.pdf"])
    with pytest.raises(BadConfiguration) as refused:
        rows_of(all_pieces(source("text", tmp_path / "a.pdf")))
    assert str(refused.value) == (
        f"spec.data.sources[mine].text: {tmp_path}/a.pdf is a PDF, not text; convert it first, for example with "
        "pdftotext, or leave it out"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            LATIN_1,
            "at byte 2 (0xfc): 3 of its 15 bytes would be replaced; convert the text, for example with iconv -f WIN",
        ),
        ("Grüße".encode("utf-16"), "is UTF-16, not UTF-8; convert the text, for example with iconv -f UTF-16 -t UTF-8"),
        ("Grüße".encode() + b"\xff", "at byte 7 (0xff): 1 of its 8 bytes would be replaced; remove them, for example"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_text_of_another_encoding_is_not_taken_for_binary(
    tmp_path: Path, content: bytes, sentence: str, named: bool
) -> None:
    """It is the user's text, so it must not vanish from a folder either."""
    put(tmp_path, "a.txt", content=content)
    with pytest.raises(BadConfiguration) as refused:
        rows_of(all_pieces(source("text", tmp_path / "a.txt" if named else tmp_path)))
    assert sentence in str(refused.value)
    assert "leave the file out (exclude, or onBadFile: skip)" in str(refused.value)


def test_bad_rows_of_each_kind_are_left_out_if_the_document_says_so(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", content=b'{"text": "a"}\n{"text": \n[1]\n{"text": "b"}\n')
    put(tmp_path, "array.jsonl", content=b'[{"text": "a"},\n{"text": b},\n{"text": "b"}]')
    put(tmp_path, "a.csv", content=b"text,number\na,1\nb\nc,3\n")
    for kind, name, numbers in (("jsonl", "a.jsonl", [1, 2]), ("jsonl", "array.jsonl", [1]), ("csv", "a.csv", [1])):
        path = tmp_path / name
        with pytest.raises(BadConfiguration, match=r"row 1 \(counted from 0"):
            rows_of(all_pieces(source(kind, path)))
        rows = rows_of(all_pieces(source(kind, path, onBadRow="skip")))
        assert [row.number for row in rows if isinstance(row.value, LeftOut)] == numbers
        texts = [row.value["text"] for row in rows if isinstance(row.value, dict)]
        assert texts == ["a", "c" if kind == "csv" else "b"]


def test_the_rest_of_a_damaged_file_is_left_out_as_one_row_and_the_next_file_is_read(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"text": f"{number} " + "x" * 50}).encode() + b"\n" for number in range(4000))
    put(tmp_path, "a.jsonl.gz", content=gzip.compress(lines, 0)[:-20_000])
    put(tmp_path, "b.jsonl", content=b'{"text": "the next file"}\n' * 9)
    with pytest.raises(BadConfiguration, match=r"a\.jsonl\.gz is truncated"):
        all_pieces(source("jsonl", tmp_path))
    lenient = source("jsonl", tmp_path, onBadFile="skip")
    whole = rows_of(all_pieces(lenient, target_bytes=10_000))
    ((name, kind, problem),) = left_out(whole)
    assert (name, kind) == ("a.jsonl.gz", "file")
    assert "is truncated" in problem
    assert any(row.file.endswith("b.jsonl") for row in whole)
    for start in (len(whole) - 20, len(whole) - 16, 7):  # an interrupted build goes on at any row
        later = all_pieces(lenient, target_bytes=10_000, start_row=start)
        assert later[0].first_row == start
        assert rows_of(later) == whole[start:]


def test_a_file_without_its_column_or_that_is_no_parquet_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", content=b"other\n1\n")
    put(tmp_path, "b.csv", content=b"text\n1\n")
    put(tmp_path, "a.parquet", content=b"PAR1 nothing")
    rows = rows_of(all_pieces(source("csv", tmp_path, onBadFile="skip")))
    assert [row.value for row in rows if not isinstance(row.value, LeftOut)] == [{"text": "1"}]
    assert len(left_out(rows)) == 1
    (row,) = rows_of(all_pieces(source("parquet", tmp_path, onBadFile="skip")))
    assert isinstance(row.value, LeftOut)


def test_a_file_that_has_changed_is_an_error_even_if_bad_ones_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "b.txt")
    made = all_pieces(source("text", tmp_path, onBadFile="skip"))
    put(tmp_path, "a.txt", content=b"another text")
    with pytest.raises(BadConfiguration, match=r"a\.txt changed after it was listed"):
        rows_of(made)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(BadConfiguration, match=r"a\.txt was listed and is gone"):
        rows_of(made)
