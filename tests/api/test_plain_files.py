"""A path that leads to a pipe or a device is a sentence, and is not opened."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halcyon.commands.checkpoints import root_spec
from halcyon.commands.options import StoreSettings
from halcyon.data.sources import Access
from halcyon.data.sources.files import fetch_file
from halcyon.evals.benchmarks import read_of_document
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.weights.folder import root_place
from halcyon.weights.model_file import read_model
from halcyon_api import plain_files
from halcyon_api.base import InvalidRun
from halcyon_api.model_file import with_template_files
from halcyon_api.plain_files import read_text
from halcyon_api.reading import read_one
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.evaluation import TasksSpec


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_pipe_a_socket_and_a_device_are_no_files(pipe: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(pipe.with_name("socket")))
        for path, name in ((pipe, "a pipe"), (pipe.with_name("socket"), "a socket"), (Path("/dev/zero"), "a device")):
            with pytest.raises(OSError, match=rf"it is {name}, not a file"):
                read_text(path)


def test_a_pipe_is_no_document_no_tokenizer_and_no_file_of_a_store(pipe: Path) -> None:
    with pytest.raises(InvalidRun, match="it is a pipe, not a file; give the path of a TrainingRun document"):
        read_one(pipe)
    with pytest.raises(OSError, match="it is a pipe, not a file"):
        fetch_file(str(pipe), Access())
    store = Store(CheckpointSpec(root=f"file://{pipe.parent}"))
    for read in (
        lambda: store.read("pipe"),
        lambda: store.tail("pipe", 0),
        lambda: store.read_ranges([("pipe", 0, 1)]),
    ):
        with pytest.raises(StoreFailure, match=re.escape(f"{pipe}: it is a pipe, not a file")):
            read()


def test_the_streams_of_a_shell_are_read_without_the_mark_of_an_editor() -> None:
    end, start = os.pipe()
    os.write(start, b"\xef\xbb\xbfa\r\nb")
    os.close(start)
    assert read_text(Path(f"/dev/fd/{end}")) == "a\nb"
    os.close(end)


def test_a_text_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(plain_files.MOST_TEXT_BYTES + 1)
    with pytest.raises(OSError, match="it is larger than 64 MiB"):
        read_text(tmp_path / "sparse")


def test_a_reader_has_its_own_limit_also_of_a_stream(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a" * 1024)
    assert read_text(tmp_path / "text", most_bytes=1024) == "a" * 1024
    end, start = os.pipe()
    os.write(start, b"a" * 1025)
    os.close(start)
    (tmp_path / "text").write_bytes(b"a" * 1025)
    for path in (tmp_path / "text", Path(f"/dev/fd/{end}")):
        with pytest.raises(OSError, match="it is larger than 1 KiB"):
            read_text(path, most_bytes=1024)
    os.close(end)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: with_template_files(templated(path), Path()),
        lambda path: read_model(f"{path}/config.json", Path()),
        lambda path: read_model(path, Path()),
        lambda path: read_of_document(TasksSpec(files={"gsm8k": path})),
        lambda path: root_spec(path, StoreSettings()),
        lambda path: root_place(path),
    ],
    ids=["template", "config", "model", "task", "checkpoints", "root"],
)
def test_the_home_folder_of_a_user_that_does_not_exist_is_a_sentence(read: Callable[[str], object]) -> None:
    with pytest.raises((InvalidRun, BadConfiguration), match="~nosuchuser/model"):
        read("~nosuchuser/model")


def templated(path: str) -> dict[str, Any]:
    """A document with a source whose template is a file."""
    return {"spec": {"data": {"sources": [{"format": {"chat": {"template": {"path": path}}}}]}}}
