"""A store of sources that does not answer, or refuses, for a while is distinguished from failures that no retry can
change.
"""

from __future__ import annotations

import pickle
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from halcyon.data.sources import Access, list_files, pieces, read_piece
from halcyon.data.sources.access import SourceFile
from halcyon.data.sources.files import fetch_file, read_range
from halcyon.host.errors import BadConfiguration, DataUnreachable
from halcyon.tokenizer.resolve import resolve
from halcyon_api.ends import ExitCode
from halcyon_api.spec.sources import DataSourceSpec
from halcyon_api.spec.tokenizer import TokenizerSpec
from tests.faults.proxy import PASS, REFUSE, SLOW_DOWN, TOO_MANY, Fault, Proxy, Request, Status
from tests.trainer.data.sources.cases import jsonl_source, parquet_source, text_source, texts, write_jsonl
from tests.trainer.data.sources.conftest import Bucket

OUTAGES: dict[str, tuple[Fault, str]] = {
    "401": (Status(401, "Unauthorized"), "the credentials are not accepted"),
    "403": (Status(403, "AccessDenied"), "access is denied"),
    "expired token": (Status(400, "ExpiredToken"), "HTTP status 400"),
    "408": (Status(408, "RequestTimeout"), "HTTP status 408"),
    "409": (Status(409, "OperationAborted"), "HTTP status 409"),
    "429": (TOO_MANY, "HTTP status 429"),
    "500": (Status(500, "InternalError"), "HTTP status 500"),
    "503": (SLOW_DOWN, "HTTP status 503"),
    "reset": (REFUSE, "no connection"),
}


@pytest.fixture
def behind(bucket: Bucket, proxy: Proxy) -> Bucket:
    """A bucket that is reached only through the proxy, with one file of each kind."""
    write_jsonl(bucket.folder / "a.jsonl", ({"text": text} for text in texts(100)))
    (bucket.folder / "a.txt").write_text("text")
    parquet.write_table(pa.table({"text": texts(100)}), bucket.folder / "a.parquet")
    return replace(bucket, access=replace(bucket.access, endpoint=proxy.endpoint, max_retries=0))


@pytest.fixture(params=OUTAGES)
def outage(request: pytest.FixtureRequest) -> tuple[Fault, str]:
    return OUTAGES[request.param]


def read_all(source: DataSourceSpec, files: tuple[SourceFile, ...], access: Access) -> None:
    for piece in pieces(source, files, access):
        read_piece(piece, access)


def message(caught: pytest.ExceptionInfo[DataUnreachable]) -> str:
    assert caught.value.exit_code == ExitCode.DATA_UNREACHABLE
    assert "made by the test" not in str(caught.value), "the server's text must not be repeated"
    return str(caught.value)


@pytest.mark.parametrize("path", ["a.jsonl", "*.jsonl", ""])
def test_an_outage_during_a_listing_is_no_mistake_of_the_document(
    behind: Bucket, proxy: Proxy, outage: tuple[Fault, str], path: str
) -> None:
    fault, answer = outage
    proxy.decide = lambda request: fault
    with pytest.raises(DataUnreachable) as caught:
        list_files(jsonl_source(f"{behind.uri}/{path}"), behind.access)
    assert message(caught).startswith(f"spec.data.sources[web].jsonl.paths[0]: {behind.uri}/")
    assert answer in message(caught)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text"])
def test_an_outage_during_a_read_is_no_mistake_of_the_document(
    behind: Bucket, proxy: Proxy, outage: tuple[Fault, str], kind: str
) -> None:
    """The listing succeeds, and the read of the file fails."""
    fault, answer = outage
    sources: dict[str, DataSourceSpec] = {
        "jsonl": jsonl_source(f"{behind.uri}/a.jsonl"),
        "parquet": parquet_source(f"{behind.uri}/a.parquet"),
        "text": text_source(f"{behind.uri}/a.txt"),
    }
    files = list_files(sources[kind], behind.access)
    proxy.decide = lambda request: fault
    with pytest.raises(DataUnreachable) as caught:
        read_all(sources[kind], files, behind.access)
    assert message(caught).startswith(f"spec.data.sources[{sources[kind].name}].{kind}: {files[0].uri} ")
    assert answer in message(caught)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - as a worker process sends it
    assert (type(again), str(again)) == (DataUnreachable, str(caught.value))


def test_an_outage_during_the_read_of_a_row_group_is_no_mistake_of_the_document(behind: Bucket, proxy: Proxy) -> None:
    """The read of a parquet file's metadata succeeds, and the read of its rows fails."""
    source = parquet_source(f"{behind.uri}/a.parquet")
    (piece,) = pieces(source, list_files(source, behind.access), behind.access)
    proxy.decide = lambda request: SLOW_DOWN
    with pytest.raises(DataUnreachable, match="HTTP status 503"):
        read_piece(piece, behind.access)


def test_an_outage_during_the_read_of_a_tokenizer_is_no_mistake_of_the_document(
    behind: Bucket, proxy: Proxy, outage: tuple[Fault, str]
) -> None:
    fault, answer = outage
    proxy.decide = lambda request: fault
    spec = TokenizerSpec.model_validate({"tokenizerJson": {"path": f"{behind.uri}/tokenizer.json"}})
    with pytest.raises(DataUnreachable) as caught:
        resolve(spec, lambda uri: fetch_file(uri, behind.access))
    assert message(caught).startswith(f"spec.tokenizer.tokenizerJson.path: {behind.uri}/tokenizer.json ")
    assert answer in message(caught)


@pytest.mark.parametrize("path", ["none.jsonl", "none/*.jsonl", "none/"])
def test_a_missing_file_is_a_mistake_of_the_document(behind: Bucket, path: str) -> None:
    with pytest.raises(BadConfiguration, match="no file matches"):
        list_files(jsonl_source(f"{behind.uri}/{path}"), behind.access)


@pytest.mark.parametrize("code", [404, 410])
def test_a_file_deleted_after_the_listing_is_a_mistake_of_the_document(behind: Bucket, proxy: Proxy, code: int) -> None:
    source = text_source(f"{behind.uri}/a.txt")
    (piece,) = pieces(source, list_files(source, behind.access), behind.access)
    proxy.decide = lambda request: Status(code, "NoSuchKey")
    with pytest.raises(BadConfiguration, match=r"a\.txt"):
        read_piece(piece, behind.access)


def test_a_404_for_an_unknown_access_key_counts_as_denied_access(behind: Bucket, proxy: Proxy) -> None:
    proxy.decide = lambda request: Status(404, "InvalidAccessKeyId") if not request.key else PASS
    with pytest.raises(DataUnreachable, match="InvalidAccessKeyId"):
        list_files(jsonl_source(f"{behind.uri}/*.jsonl"), behind.access)


def test_an_error_code_in_the_name_of_a_file_is_ignored(behind: Bucket, proxy: Proxy) -> None:
    proxy.decide = lambda request: Status(404, "NoSuchBucket")
    with pytest.raises(BadConfiguration):
        list_files(jsonl_source(f"{behind.uri}/ExpiredToken/*.jsonl"), behind.access)


def test_a_store_whose_name_does_not_resolve_is_unreachable(bucket: Bucket) -> None:
    access = replace(bucket.access, endpoint="http://store.invalid", max_retries=0)
    with pytest.raises(DataUnreachable, match="no connection"):
        list_files(jsonl_source(f"{bucket.uri}/a.jsonl"), access)


def test_a_store_that_accepts_connections_and_never_answers_is_unreachable(bucket: Bucket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sink:
        access = replace(
            bucket.access,
            endpoint=f"http://127.0.0.1:{sink.getsockname()[1]}",
            max_retries=0,
            retry_seconds=0.1,
            answer_seconds=0.2,
        )
        with pytest.raises(DataUnreachable, match=r"no connection|no answer"):
            list_files(jsonl_source(f"{bucket.uri}/a.jsonl"), access)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("EIO", DataUnreachable),
        ("ESTALE", DataUnreachable),
        ("ENOTCONN", DataUnreachable),
        ("EACCES", BadConfiguration),
    ],
)
def test_errors_of_a_mount_are_outages_or_mistakes_of_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, kind: type[Exception]
) -> None:
    import errno
    import os

    code = getattr(errno, number)
    (tmp_path / "a.txt").write_text("text")
    source = text_source(tmp_path / "a.txt")
    access = Access(pause_seconds=0)
    files = list_files(source, access)

    def away(*_: object) -> bytes:
        raise OSError(code, os.strerror(code), str(tmp_path / "a.txt"))

    monkeypatch.setattr("halcyon.data.sources.files._read_local", away)
    with pytest.raises(kind):
        read_all(source, files, access)


def test_the_read_of_each_range_is_repeated_once(behind: Bucket, proxy: Proxy) -> None:
    answers = iter([SLOW_DOWN])
    lock = threading.Lock()

    def decide(request: Request) -> Fault:
        with lock:
            return next(answers, PASS) if request.method == "GET" else PASS

    (file,) = list_files(text_source(f"{behind.uri}/a.txt"), behind.access)
    proxy.decide = decide
    assert bytes(read_range(SourceFile(*vars(file).values()), 0, 4, behind.access)) == b"text"
