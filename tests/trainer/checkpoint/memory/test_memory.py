"""Snapshots in memory: which step can be had, what a pod keeps, and what its port accepts."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint.memory.documents import KeptPart, complete_steps, places
from halcyon.checkpoint.memory.folder import Folder
from halcyon.checkpoint.memory.peers import Peer, PeerServer
from halcyon.checkpoint.parts import encode_report
from halcyon_api.checkpoint_documents import ManifestFile
from tests.suite.limits import limit

TOKEN = "of-the-attempt"  # noqa: S105 - a test's
SOME, OTHER = b"some bytes", b"other bytes"


def part(process: int, step: int, *data: bytes, writer: str = "w1", returns: int = 0) -> KeptPart:
    files = tuple(
        ManifestFile(path=f"leaf/{number}", size_bytes=len(one), sha256=hashlib.sha256(one).hexdigest())
        for number, one in enumerate(data)
    )
    return KeptPart(step=step, process=process, writer=writer, returns=returns, files=files)


def keep(folder: Folder, kept: KeptPart, *data: bytes) -> None:
    for file, one in zip(kept.files, data, strict=True):
        folder.write(kept.process, file.path, (one,))
    folder.keep(kept)


@pytest.mark.parametrize(
    ("process", "slices", "hosts", "copies", "expected"),
    [
        (0, 1, 1, 1, ()),
        (0, 1, 4, 1, (1,)),
        (3, 1, 4, 1, (0,)),
        (3, 2, 2, 1, (1,)),
        (5, 3, 2, 2, (1, 3)),
        (0, 2, 4, 4, (4,)),
        (0, 2, 4, 0, ()),
    ],
)
def test_copies_lie_in_other_slices(
    process: int, slices: int, hosts: int, copies: int, expected: tuple[int, ...]
) -> None:
    assert places(process, slices, hosts, copies) == expected


@pytest.mark.parametrize(
    ("kept", "steps"),
    [
        ([[part(0, 6), part(0, 9)], [part(1, 6)]], [6]),
        ([[part(0, 9), part(1, 9)], []], [9]),
        ([[part(0, 9)], []], []),
        ([[part(0, 9)], [part(1, 9, writer="w2")]], []),
        ([[part(0, 9, writer="stranger")], [part(1, 9, writer="stranger")]], []),
        ([[part(0, 9, returns=1)], [part(1, 9, returns=1)]], []),
        ([[part(0, 9), part(7, 9)], [part(1, 9)]], [9]),
        ([[part(0, 6), part(0, 9)], [part(1, 6), part(1, 9)]], [9, 6]),
    ],
)
def test_a_step_needs_each_part_of_one_start_of_this_run(kept: list[list[KeptPart]], steps: list[int]) -> None:
    assert [one.step for one in complete_steps(kept, ("w1", "w2"), 0)] == steps


def test_the_own_pod_is_asked_first() -> None:
    (found,) = complete_steps([[part(0, 9), part(1, 9)], [part(0, 9), part(1, 9)]], ("w1",), 0)
    assert found.holders == ((0, 1), (1, 0))


def test_two_steps_are_kept_and_a_shared_file_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for step in (3, 6, 9):
        keep(folder, part(0, step, SOME, f"{step}".encode()), SOME, f"{step}".encode())
    assert sorted(one.step for one in folder.parts()) == [6, 9]
    assert len(list((tmp_path / "0").iterdir())) == 2 + 3


def test_a_step_that_an_earlier_start_kept_alone_goes_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for kept in (part(0, 12), part(0, 6, writer="w2"), part(0, 9, writer="w2")):
        keep(folder, kept)
    assert sorted(one.step for one in folder.parts()) == [6, 9]


def test_changed_bytes_are_found(tmp_path: Path) -> None:
    folder, kept = Folder(tmp_path), part(0, 3, SOME)
    keep(folder, kept, SOME)
    (file,) = kept.files
    assert folder.read(0, file) == SOME
    folder.file(0, file.sha256).write_bytes(b"Some bytes")
    assert folder.read(0, file) is None
    keep(folder, kept, SOME)
    assert folder.read(0, file) == SOME, "the next snapshot with the same bytes is whole again"
    document = tmp_path / "0" / "000000000003.json"
    document.write_bytes(document.read_bytes().replace(b'"step":3', b'"step":4'))
    assert folder.parts() == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PeerServer]:
    """The server of a pod that keeps nothing yet."""
    found = PeerServer(Folder(tmp_path / "peer"), TOKEN)
    yield found
    found.close()


def test_a_copy_is_sent_once_and_read_back(tmp_path: Path, server: PeerServer) -> None:
    own, kept = Folder(tmp_path / "own"), part(1, 3, SOME, OTHER)
    keep(own, kept, SOME, OTHER)
    with Peer(("localhost", server.server_address[1]), TOKEN) as peer:
        peer.send(own, kept)
        own.file(1, kept.files[0].sha256).unlink()  # the peer has it: it is not sent again
        peer.send(own, kept)
        assert [peer.get(1, file) for file in kept.files] == [SOME, OTHER]
        assert peer.get(0, kept.files[0]) is None
    assert server.folder.parts() == [kept]


@pytest.mark.parametrize(
    ("method", "path", "token", "data"),
    [
        ("GET", "/../../etc/passwd", TOKEN, None),
        ("GET", f"/1/{'0' * 64}", "", None),
        ("GET", f"/1/{'0' * 64}", "another", None),
        ("PUT", f"/1/{'0' * 64}", TOKEN, SOME),
        ("PUT", "/1/part", TOKEN, b"[" * 100_000),
        ("PUT", "/1/part", TOKEN, encode_report(part(2, 3))),
        ("PUT", "/1/part", TOKEN, encode_report(part(1, 3, SOME))),
        ("PUT", "/1/name", TOKEN, SOME),
        ("PUT", "/99999999999/part", TOKEN, SOME),
    ],
)
def test_the_port_keeps_nothing_of_a_stranger(
    server: PeerServer, tmp_path: Path, method: str, path: str, token: str, data: Any
) -> None:
    client = http.client.HTTPConnection("localhost", server.server_address[1], timeout=limit(10))
    client.request(method, path, data, {"Halcyon-Token": token})
    assert client.getresponse().status >= 400
    client.close()
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
