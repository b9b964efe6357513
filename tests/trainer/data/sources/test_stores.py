"""Sources in stores: which files are listed, and in which order; the same rows as from a disk; and the errors."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from halcyon.data.sources import Access, SourceFile, list_files, pieces, read_piece, remote
from halcyon.data.sources.access import parse_address
from halcyon.data.sources.failures import Unreadable
from halcyon.data.sources.piece import LeftOut
from halcyon.host.errors import BadConfiguration, DataUnreachable
from tests.trainer.data.sources.cases import NOW, jsonl_source, parquet_source, text_source, texts, values, write_jsonl
from tests.trainer.data.sources.conftest import Bucket, WebServer


def names(files: tuple[SourceFile, ...], bucket: Bucket) -> list[str]:
    return [file.uri.removeprefix(f"{bucket.uri}/") for file in files]


def test_buckets_are_listed_like_disks(bucket: Bucket) -> None:
    for name in (
        "b/2.jsonl",
        "b/1.jsonl.gz",
        "b/sub/3.jsonl.zst",
        "b/notes.md",
        "b-side/4.jsonl",
        "a.jsonl",
        "b/w[1].jsonl",
    ):
        write_jsonl(bucket.folder / name, [{"text": name}])
    listed = [
        names(list_files(jsonl_source(*(f"{bucket.uri}/{path}" for path in paths)), bucket.access), bucket)
        for paths in (
            ["b"],
            ["b/"],
            ["b/*.jsonl", "a.jsonl"],
            ["**/*.jsonl*"],
            ["b/w[1].jsonl"],
            [""],
            ["b/2.jsonl", "b"],
        )
    ]
    below = ["b/1.jsonl.gz", "b/2.jsonl", "b/sub/3.jsonl.zst", "b/w[1].jsonl"]
    everything = ["a.jsonl", *below, "b-side/4.jsonl"]
    assert listed == [
        *(below, below, ["b/2.jsonl", "b/w[1].jsonl", "a.jsonl"], everything, ["b/w[1].jsonl"], everything),
        ["b/2.jsonl", "b/1.jsonl.gz", "b/sub/3.jsonl.zst", "b/w[1].jsonl"],
    ]


def test_rows_from_a_bucket_are_those_of_the_disk(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon.data.sources.files._REMOTE_RANGE_BYTES", 10_000)
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        write_jsonl(bucket.folder / name, ({"text": text} for text in texts(2000)))
    remote, local = jsonl_source(bucket.uri + "/"), jsonl_source(bucket.folder)
    assert values(remote, bucket.access) == values(local) == texts(2000) * 3
    cut = [
        [
            (piece.first_row, piece.rows, piece.number)
            for piece in pieces(source, list_files(source, bucket.access), bucket.access)
        ]
        for source in (remote, local)
    ]
    assert cut[0] == cut[1]
    assert values(text_source(f"{bucket.uri}/a.jsonl"), bucket.access) == [(bucket.folder / "a.jsonl").read_bytes()]


def test_a_pdf_of_a_bucket_is_refused_if_it_is_named_and_else_left_out(bucket: Bucket) -> None:
    (bucket.folder / "a.pdf").write_bytes(b"%PDF-1.4\n")
    (bucket.folder / "b.txt").write_bytes(b"text")
    with pytest.raises(BadConfiguration, match=rf"{bucket.uri}/a\.pdf is a PDF, not text; convert it first"):
        values(text_source(f"{bucket.uri}/a.pdf"), bucket.access)
    for path in ("", "/*"):
        left_out, text = values(text_source(f"{bucket.uri}{path}"), bucket.access)
        assert isinstance(left_out, LeftOut)
        assert (left_out.kind, text) == ("binary", b"text")


def test_only_the_needed_parts_of_a_parquet_file_are_fetched(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 20_000
    noise = random.Random(0).randbytes(200 * rows)
    columns = {"blob": [noise[200 * row : 200 * (row + 1)] for row in range(rows)], "text": texts(rows)}
    parquet.write_table(pa.table(columns), bucket.folder / "a.parquet", row_group_size=1000)
    fetched: list[int] = []
    original = remote.read_range

    def counting(file: SourceFile, address: object, start: int, end: int, access: Access) -> memoryview:
        fetched.append(end - start)
        return original(file, address, start, end, access)  # type: ignore[arg-type]

    monkeypatch.setattr(remote, "read_range", counting)
    assert values(parquet_source(f"{bucket.uri}/a.parquet"), bucket.access) == texts(rows)
    assert 0 < sum(fetched) < (bucket.folder / "a.parquet").stat().st_size / 4


@pytest.mark.parametrize("change", ["gone", "replaced"])
def test_an_object_that_changes_while_it_is_read_ends_the_reading(bucket: Bucket, change: str) -> None:
    file = write_jsonl(bucket.folder / "a.jsonl", ({"text": text * 20} for text in texts(2000)))
    source = jsonl_source(f"{bucket.uri}/a.jsonl")
    listed = list_files(source, bucket.access)
    file.unlink()
    if change == "replaced":
        other = write_jsonl(bucket.folder / "b.jsonl", ({"text": text * 20} for text in texts(2000, 1)))
        list_files(jsonl_source(f"{bucket.uri}/b.jsonl"), bucket.access)
        other.rename(file)
    with pytest.raises(BadConfiguration) as refused:
        list(pieces(source, listed, bucket.access))
    expected = {
        "gone": "was listed and is gone; put it back",
        "replaced": "changed after it was listed; leave the files alone",
    }[change]
    assert str(refused.value).startswith(f"spec.data.sources[web].jsonl: {bucket.uri}/a.jsonl {expected}")


def test_a_missing_file_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("nothing.jsonl", "nothing/", "**/*.parquet"):
        with pytest.raises(BadConfiguration) as refused:
            list_files(jsonl_source(f"{bucket.uri}/{path}"), bucket.access)
        assert str(refused.value) == (
            f"spec.data.sources[web].jsonl.paths[0]: no file matches {bucket.uri}/{path}; "
            "give a file, a directory or a glob that the trainer can see"
        )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    other = Access(endpoint=bucket.access.endpoint, max_retries=0, retry_seconds=5.0)
    with pytest.raises(
        DataUnreachable, match=r"jsonl\.paths\[0\]: s3://bucket-.* cannot be looked up: .*; check the addr"
    ):
        list_files(jsonl_source(f"{bucket.uri}/a.jsonl"), other)


def test_files_of_a_web_server(web_server: WebServer, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/a.jsonl.gz", ({"text": text} for text in texts(3000)))
    source = jsonl_source(f"{web_server.address}/data/a.jsonl.gz")
    assert values(source) == texts(3000)
    assert any(asked is None for _, asked in web_server.requests) != web_server.ranges
    (file,) = list_files(source, NOW)
    assert file.size_bytes == (tmp_path / "data/a.jsonl.gz").stat().st_size
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(BadConfiguration, match=r"a\.jsonl\.gz (was listed and is gone|broke off)"):
        list(pieces(source, (file,), NOW))
    with pytest.raises(BadConfiguration, match="no file matches https://"):
        list_files(source, NOW)


def test_a_glob_on_a_web_server_is_refused() -> None:
    with pytest.raises(
        BadConfiguration, match=r"https://host/\*\.jsonl is a glob, but web servers cannot list files; name each file"
    ):
        list_files(jsonl_source("https://host/*.jsonl"), Access())


@pytest.mark.parametrize(
    ("uri", "root", "path"),
    [
        ("hf://datasets/o/n/data/*.parquet", "datasets/o/n/resolve/main", "data/*.parquet"),
        ("hf://datasets/o/n@v1.0", "datasets/o/n/resolve/v1.0", ""),
        ("s3://b/p/q.jsonl", "b", "p/q.jsonl"),
        ("gs://b", "b", ""),
        ("az://account/box/a/b.txt", "account/box", "a/b.txt"),
        ("az://account/box", "account/box", ""),
        ("https://h:80/p", "https://h:80", "p"),
        ("file:///p/q", "", "/p/q"),
        ("p/q", "", "p/q"),
    ],
)
def test_addresses_are_split_into_root_and_path(uri: str, root: str, path: str) -> None:
    address = parse_address(uri)
    assert (address.root, address.path) == (root, path)
    assert parse_address(address.uri) == address


@pytest.mark.parametrize("uri", ["hf://models/o/n/f", "hf://datasets/o", "s3:///p"])
def test_incomplete_addresses_are_rejected(uri: str) -> None:
    with pytest.raises(Unreadable, match="; write "):
        parse_address(uri)


def test_pieces_of_texts_hold_several_files(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_bytes(b"x" * number * 10)
    source, access = text_source(tmp_path), NOW
    made = list(pieces(source, list_files(source, access), access, target_bytes=1000))
    assert 2 < len(made) < 15
    rows = [row for piece in made for row in read_piece(piece, access)]
    assert [row.value for row in rows] == [b"x" * number * 10 for number in range(30)]
    later = list(pieces(source, list_files(source, access), access, start_row=11, target_bytes=1000))
    assert [row for piece in later for row in read_piece(piece, access)] == rows[11:]
