"""The Hugging Face hub: files of a data set from a server with the hub's API, and data sets by name if `datasets` is
installed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import pytest

from halcyon.data.sources import Access, list_files
from halcyon.data.sources import access as access_module
from halcyon.data.sources.access import Address
from halcyon.data.sources.files import fetch_file
from halcyon.host.errors import BadConfiguration, DataUnreachable
from halcyon_api.spec.sources import DataSourceSpec, HuggingFaceSourceSpec
from tests.trainer.data.sources.cases import NOW, all_pieces, jsonl_source, rows_of, texts, values, write_jsonl
from tests.web import Handler, serving

PREFIX = "/api/datasets/owner/name"


def _entry(root: Path, file: Path) -> dict[str, Any]:
    path, size = file.relative_to(root).as_posix(), file.stat().st_size
    if file.is_dir():
        return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": path, "oid": hashlib.sha1(file.read_bytes()).hexdigest(), "size": size}  # noqa: S324 - as git does


@pytest.fixture
def answers() -> list[int]:
    """If not empty, the status of all answers."""
    return []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[int]) -> Iterator[Path]:
    """The folder of the data set owner/name, revision v1, on a server with the hub's API."""
    root = tmp_path / "name"
    root.mkdir()

    class Answers(Handler):
        def post(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            found = [root / path for path in asked if (root / path).exists()]
            self._answer(200, json.dumps([_entry(root, file) for file in found]).encode())

        def get(self) -> None:
            path = unquote(urlparse(self.path).path)
            if answers:
                self._answer(answers[0], b"{}")
            elif path.startswith(f"{PREFIX}/tree/v1"):
                folder = root / path.removeprefix(f"{PREFIX}/tree/v1").strip("/")
                if not folder.is_dir():
                    self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                else:
                    self._answer(200, json.dumps([_entry(root, file) for file in folder.rglob("*")]).encode())
            elif path.startswith("/datasets/owner/name/resolve/v1/"):
                data = (root / path.removeprefix("/datasets/owner/name/resolve/v1/")).read_bytes()
                start, _, end = (
                    self.headers.get("range", f"bytes=0-{len(data) - 1}").removeprefix("bytes=").partition("-")
                )
                part = data[int(start) : int(end) + 1]
                span = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
                self._answer(
                    206 if "range" in self.headers else 200, part, {"content-range": span, "etag": '"of-the-cdn"'}
                )
            else:
                self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.answer(status, body, {"content-type": "application/json", **(headers or {})})

    with serving(Answers) as address:
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        yield root


@pytest.mark.parametrize("status", [401, 403])  # the hub's client itself retries this status for 30 s
def test_a_hub_that_denies_access_is_reported_as_unreachable(hub: Path, answers: list[int], status: int) -> None:
    answers[:] = [status]
    with pytest.raises(DataUnreachable, match=f"hf://datasets/owner/name@v1/ cannot be listed: .*HTTP status {status}"):
        list_files(jsonl_source("hf://datasets/owner/name@v1/"), NOW)


def test_a_hub_that_does_not_answer_is_reported_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataUnreachable, match=r"hf://datasets/owner/name/x\.jsonl cannot be listed: "):
        list_files(jsonl_source("hf://datasets/owner/name/x.jsonl"), NOW)


def test_files_of_a_data_set(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon.data.sources.files._REMOTE_RANGE_BYTES", 1000)
    for name in ("data/b.jsonl.gz", "data/a.jsonl", "README.md", "other/c.jsonl"):
        write_jsonl(hub / name, ({"text": text} for text in texts(100)))
    data = "hf://datasets/owner/name@v1"
    paths = ("data", "data/*.jsonl", "", "data/a.jsonl")
    listed = {path: [file.uri for file in list_files(jsonl_source(f"{data}/{path}"), NOW)] for path in paths}
    assert listed == {
        "data": [f"{data}/data/a.jsonl", f"{data}/data/b.jsonl.gz"],
        "data/*.jsonl": [f"{data}/data/a.jsonl"],
        "": [f"{data}/data/a.jsonl", f"{data}/data/b.jsonl.gz", f"{data}/other/c.jsonl"],
        "data/a.jsonl": [f"{data}/data/a.jsonl"],
    }
    assert values(jsonl_source(f"{data}/data")) == texts(100) * 2
    (before,) = list_files(jsonl_source(f"{data}/data/a.jsonl"), NOW)
    write_jsonl(hub / "data/a.jsonl", ({"text": text} for text in texts(100, 1)))
    (after,) = list_files(jsonl_source(f"{data}/data/a.jsonl"), NOW)
    assert before.version != after.version


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("owner/name@v1/nothing", "no file matches hf://datasets/owner/name@v1/nothing; give a file"),
        ("owner/other@v1/a.jsonl", "hf://datasets/owner/other@v1/a.jsonl cannot be listed: "),
    ],
)
def test_a_file_or_data_set_that_is_not_on_the_hub_is_named(hub: Path, path: str, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        list_files(jsonl_source(f"hf://datasets/{path}"), NOW)
    assert str(refused.value).startswith(f"spec.data.sources[web].jsonl.paths[0]: {sentence}")


def by_name(path: Path | str, **options: Any) -> DataSourceSpec:
    return DataSourceSpec(name="named", hugging_face=HuggingFaceSourceSpec(dataset=str(path)), **options)


def test_without_the_library_a_data_set_by_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadConfiguration) as refused:
        list_files(by_name("owner/name"), NOW)
    assert str(refused.value) == (
        "spec.data.sources[named].huggingFace: the package datasets is not installed: `pip install datasets` (for a cluster, in the image); or name "
        "the files of the data set in a parquet or jsonl source, such as hf://datasets/owner/name/"
    )


def test_a_data_set_by_name_where_the_library_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets is not a dependency")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_jsonl(
        tmp_path / "named/train.jsonl", ({"text": text, "id": number} for number, text in enumerate(texts(300)))
    )
    source = by_name("named", rows={"start": 7, "end": 290})
    made = all_pieces(source, target_bytes=2000)
    assert len(made) > 3
    assert [row.value for row in rows_of(made)] == [{"text": text} for text in texts(300)[7:290]]
    assert [row.number for row in rows_of(made)] == list(range(7, 290))
    assert rows_of(all_pieces(source, start_row=100, target_bytes=2000)) == rows_of(made)[93:]
    with pytest.raises(
        BadConfiguration,
        match=r"named\]\.huggingFace: .* has no column 'body', only text, id; name the column in format",
    ):
        all_pieces(by_name("named", format={"text": {"field": "body"}}))


@pytest.mark.parametrize(
    ("uri", "is_sent"),
    [
        ("hf://owner/name/tokenizer.json", True),
        ("hf://datasets/owner/name/a.jsonl", True),
        ("https://huggingface.co/owner/name/resolve/main/tokenizer.json", True),
        ("https://huggingface.co.example.org/tokenizer.json", False),
        ("https://example.org/tokenizer.json", False),
    ],
)
def test_the_token_goes_to_the_hub_and_to_no_other_server(
    uri: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []

    def store(root: str, *, client_options: dict[str, Any], **_: object) -> None:
        sent.append(client_options.get("default_headers"))
        raise OSError("no such server")

    def look_up(address: Address, access: Access) -> None:
        access_module.client(address, access)

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr(access_module, "HTTPStore", store)
    monkeypatch.setattr("halcyon.data.sources.files.look_up", look_up)
    access_module.forget_clients()
    with pytest.raises(OSError, match="no such server"):
        fetch_file(uri, NOW)
    assert sent == [{"authorization": "Bearer secret"} if is_sent else None]
