"""Sources of whole files: which files they have, in which order, and the error if there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from halcyon.data.sources import SourceRow, list_files, pieces, read_piece, row_ends, stdlib_modules
from halcyon.host.errors import BadConfiguration, DataUnreachable
from halcyon_api.spec.sources import DataSourceSpec
from tests.trainer.data.sources.cases import NOW, all_pieces, pack, rows_of, stdlib_source, text_source


def rows(source: DataSourceSpec) -> list[SourceRow]:
    return rows_of(all_pieces(source))


def names(found: list[SourceRow]) -> list[str]:
    return [row.file.removeprefix("stdlib:") for row in found]


def put(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)


def test_standard_library_has_only_its_modules_and_no_files_of_the_machine(tmp_path: Path) -> None:
    put(
        tmp_path,
        "zipfile.py",
        "abc.py",
        "json/decoder.py",
        "json/__init__.py",
        # Build configuration, installed packages, site customisation, test suites that slim images delete, other files:
        "config-3.11-x86_64-linux-gnu/python-config.py",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "_sysconfigdata__darwin_darwin.py",
        "site-packages/numpy/core.py",
        "dist-packages/thing.py",
        "sitecustomize.py",
        "test/test_json.py",
        "unittest/test/__main__.py",
        "ctypes/test/test_int.py",
        "lib2to3/tests/data/bom.py",
        "idlelib/idle_test/mock_tk.py",
        "__pycache__/abc.py",
        "abc.pyi",
        "LICENSE.txt",
        # Used as documentation, not as source:
        "pydoc_data/topics.py",
    )
    assert stdlib_modules(tmp_path) == ["abc.py", "json/__init__.py", "json/decoder.py", "zipfile.py"]


def test_standard_library_of_this_interpreter() -> None:
    documents = rows(stdlib_source())
    found = names(documents)
    assert {
        "source/json/decoder.py",
        "source/asyncio/base_events.py",
        "documentation/lambda",
        "documentation/assert",
    } <= set(found)
    assert len(found) == len(set(found))
    assert not any(
        "/test/" in name or "site-packages" in name or name.endswith("pydoc_data/topics.py") for name in found
    )
    assert sum(len(row.value) for row in documents if isinstance(row.value, bytes)) > 5_000_000
    assert documents == rows(stdlib_source())


def test_parts_of_the_standard_library() -> None:
    source, documentation = (names(rows(stdlib_source(part))) for part in ("source", "documentation"))
    assert all(name.startswith("source/") for name in source)
    assert all(name.startswith("documentation/") for name in documentation)
    assert source + documentation == names(rows(stdlib_source("documentation", "source")))


def test_an_interpreter_without_a_library_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(
        BadConfiguration, match=r"^spec\.data\.sources\[stdlib\]\.stdlib: no \.py files below .*; use an image"
    ):
        rows(stdlib_source("source"))


def test_an_interpreter_without_documentation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(
        BadConfiguration,
        match=r"\.stdlib: this Python has no pydoc_data\.topics; leave `documentation` out of include$",
    ):
        rows(stdlib_source("documentation"))


def test_a_file_is_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffGröße\r\n".encode())
    assert rows(text_source(file)) == [SourceRow(str(file), 0, "\ufeffGröße\r\n".encode())]


def test_directories_globs_and_files_in_order_each_file_once(tmp_path: Path) -> None:
    put(tmp_path, "b/2.txt", "b/1.txt", "b/sub/0.md", "a.txt", "c.md", "b-side.txt")
    found = names(rows(text_source(tmp_path / "b", tmp_path / "*.txt", tmp_path / "a.txt", tmp_path / "**/*.md")))
    assert [Path(name).relative_to(tmp_path).as_posix() for name in found] == [
        *("b/1.txt", "b/2.txt", "b/sub/0.md"),
        *("a.txt", "b-side.txt"),
        "c.md",
    ]


def test_the_name_of_an_existing_file_is_no_glob(tmp_path: Path) -> None:
    put(tmp_path, "notes[1].txt", "notes1.txt")
    assert names(rows(text_source(tmp_path / "notes[1].txt"))) == [str(tmp_path / "notes[1].txt")]


def test_empty_files_are_empty_rows_so_that_rows_count_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    put(tmp_path, "full")
    assert [row.value for row in rows(text_source(tmp_path))] == [b"", b"full"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_are_their_content(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a.txt{ending}").write_bytes(pack(ending, b"text"))
    assert [row.value for row in rows(text_source(tmp_path))] == [b"text"]


def test_a_text_of_a_hundred_million_characters_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * 10**8)
    ((_, _, value),) = rows(text_source(tmp_path / "a.txt"))
    assert value == b"a" * 10**8


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_text_that_is_too_long_for_memory_is_named(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_ends, "LONGEST_ROW_BYTES", 2**20)
    content = b"a" * (2**20 + 1)
    (tmp_path / f"a.txt{ending}").write_bytes(pack(ending, content) if ending else content)
    (tmp_path / "b.txt").write_bytes(content[1:])
    with pytest.raises(
        BadConfiguration,
        match=rf"a\.txt{ending} is one text of more than 1 MiB, and a document must fit in memory; cut it into files",
    ):
        rows(text_source(tmp_path))
    skipping = text_source(tmp_path).but(on_bad_file="skip")
    assert [len(row.value) for row in rows(skipping) if isinstance(row.value, bytes)] == [2**20]


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "texts/1.txt")
    monkeypatch.chdir(tmp_path)
    assert names(rows(text_source("texts/*.txt"))) == ["texts/1.txt"]


@pytest.mark.parametrize("missing", ["nothing", "*.none", "empty-directory"])
def test_a_path_without_files_names_the_field(tmp_path: Path, missing: str) -> None:
    put(tmp_path, "there.txt")
    (tmp_path / "empty-directory").mkdir()
    source = text_source(tmp_path / "there.txt", tmp_path / missing)
    with pytest.raises(BadConfiguration) as refused:
        rows(source)
    assert str(refused.value) == (
        f"spec.data.sources[mine].text.paths[1]: no file matches {tmp_path / missing}; "
        "give a file, a directory or a glob that the trainer can see"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that nobody can read, root included")
def test_an_unreadable_file_names_the_field() -> None:
    source, access = text_source("/proc/self/mem"), NOW
    (piece,) = pieces(source, list_files(source, access), access)
    with pytest.raises(
        DataUnreachable,
        match=r"^spec\.data\.sources\[mine\]\.text: /proc/self/mem cannot be read: .*; make it readable",
    ):
        read_piece(piece, access)
