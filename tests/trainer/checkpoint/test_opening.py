"""Which process may take a root, and the error for the others. A rejected process changes nothing in the root."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from halcyon.checkpoint import Limits
from halcyon.commands.main import app
from halcyon.host.errors import Fenced, NoValidCheckpoint, RootTaken, RootUnusable, RunChanged, TrainerExit
from halcyon.host.storage.abilities import overwrite_problem
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import Fingerprints, Owner
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_devcluster.machine import factor
from tests.trainer.checkpoint.helpers import Root, epoch, fill, mesh, numbers, on, open_root, position, snapshot_of
from tests.web import serving


def test_epochs_of_a_cluster_and_of_a_laptop(root: Root) -> None:
    fill(root, 1, epoch=epoch(4, 2))
    assert root.head["epoch"] == {"attempt": 4, "restart": 2}
    with open_root(root) as checkpointer:
        assert checkpointer.epoch == epoch(5)


REFUSALS: list[tuple[dict[str, Any], type[TrainerExit], str]] = [
    (
        {"epoch": epoch(3, 9)},
        Fenced,
        r"was taken by the newer start 4 of the run, so this process of start 3\.9 may not write there",
    ),
    (
        {"owner": Owner(namespace="tests", name="another")},
        RootTaken,
        "belongs to the run tests/run, not to tests/another; give each run",
    ),
    (
        {
            "epoch": epoch(5),
            "fingerprints": Fingerprints(
                sections={"spec.model": "1" * 64}, documents={"spec.model": {"family": "llama", "numHiddenLayers": 6}}
            ),
        },
        RunChanged,
        r"the checkpoint at step 1 in .* was made with another configuration: spec\.model\.numHiddenLayers is 6 but was "
        r"4; set it back",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "text"), REFUSALS)
def test_a_refused_process_changes_nothing(
    root: Root, changes: dict[str, Any], kind: type[TrainerExit], text: str
) -> None:
    fill(root, 1, epoch=epoch(4))
    before = snapshot_of(root.folder)
    with pytest.raises(kind, match=text) as caught:
        open_root(root, **changes)
    assert root.spec.root in str(caught.value)
    assert snapshot_of(root.folder) == before


def test_a_run_that_had_a_checkpoint_never_starts_silently_from_step_0(root: Root) -> None:
    with pytest.raises(
        NoValidCheckpoint,
        match=r"the run had a checkpoint at step 40, but .* holds none; correct spec\.checkpoint\.root",
    ):
        open_root(root, expected_step=40)
    assert not root.folder.exists()
    fill(root)
    with pytest.raises(NoValidCheckpoint, match="the run had a checkpoint at step 40"):
        open_root(root, expected_step=40)


def test_a_later_process_of_the_same_epoch_takes_over(root: Root) -> None:
    state = on(mesh(2, 2), numbers(1))
    with open_root(root, epoch=epoch(2)) as earlier, open_root(root, epoch=epoch(2)) as later:
        earlier.save(1, state, position(1))
        with pytest.raises(Fenced, match=r"taken by the newer process of start 2 "):
            earlier.finish()
        later.save(1, state, position(1))
        later.finish()
    assert [entry["step"] for entry in root.head["committed"]] == [1]


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    root = Root(CheckpointSpec(root=f"file://{tmp_path}/file/root"), tmp_path)
    with pytest.raises(
        RootUnusable, match=r"^checkpoint root file://.*/file/root cannot be used; correct spec\.checkpoint\.root \("
    ):
        open_root(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    root = Root(CheckpointSpec(root=f"file://{tmp_path}/locked/root"), tmp_path)
    with pytest.raises(RootUnusable, match="refuses access; give the run's credentials the right"):
        open_root(root)


def test_a_bucket_that_does_not_exist(s3_root: Root) -> None:
    root = Root(s3_root.spec.model_copy(update={"root": "s3://no-such-bucket/run"}), s3_root.folder)
    with pytest.raises(
        RootUnusable, match=r"^checkpoint root s3://no-such-bucket/run does not exist; create the bucket, or correct"
    ):
        open_root(root)


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_refused_and_not_repeated(
    s3_root: Root, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    wrong = "mistaken-and-secret"
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(RootUnusable, match="refuses access; give the run's credentials the right to list") as caught:
        open_root(s3_root)
    secrets = [wrong, *s3_root.environment.values()]
    assert not any(secret in str(caught.value) for secret in secrets)
    assert caught.value.__cause__ is None


def test_a_store_that_cannot_be_reached_is_no_failure_of_the_run(s3_root: Root) -> None:
    """A crash would be counted: a long outage would use up the restart budget and stop the run permanently."""
    root = Root(s3_root.spec.model_copy(update={"endpoint": "http://127.0.0.1:9"}), s3_root.folder)
    with pytest.raises(
        RootUnusable, match=r"^checkpoint root s3://.* could not be reached; look at the store and the network"
    ):
        open_root(root, limits=Limits(request_seconds=1))


class _Careless(http.server.BaseHTTPRequestHandler):
    """An object store that cannot fence: it ignores conditions, or compares first and writes later, or lists late."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    compares: bool
    lists: bool
    compared: threading.Barrier

    def do_HEAD(self) -> None:
        known = self.path in self.objects
        self._answer(412 if self._differs() else 200 if known else 404, b"")

    def do_GET(self) -> None:
        if "list-type" in self.path:
            bucket = urlsplit(self.path).path.rstrip("/")
            keys = [path.removeprefix(f"{bucket}/") for path in sorted(self.objects)] if self.lists else []
            contents = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
            body = (
                f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>'
            )
            self._answer(200, body.encode())
        else:
            body = self.objects.get(self.path)
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self._answer(404 if body is None else 206 if start else 200, (body or b"")[start:], of=len(body or b""))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.compares and self._differs():
            self._answer(412, b"")
            return
        try:
            self.compared.wait(0.3 * factor())  # waits for a concurrent write
        except threading.BrokenBarrierError:
            self.compared.reset()  # there was none
        self.objects[self.path] = body
        self._answer(200, b"")

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204, b"")

    def _differs(self) -> bool:
        wanted, present = self.headers.get("If-Match"), self.objects.get(self.path)
        forbidden = self.headers.get("If-None-Match") == "*" and present is not None
        return forbidden or (wanted not in (None, '""') and wanted != _etag(present or b""))

    def _answer(self, code: int, body: bytes, of: int = 0) -> None:
        self.send_response(code)
        if code == 206:
            self.send_header("Content-Range", f"bytes {of - len(body)}-{of - 1}/{of}")
        self.send_header("ETag", _etag(self.objects.get(self.path, body)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the request log out of the test's output."""


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@contextlib.contextmanager
def careless_store(*, compares: bool, lists: bool) -> Iterator[str]:
    settings = {"objects": {}, "compares": compares, "lists": lists, "compared": threading.Barrier(2)}
    with serving(type("Answers", (_Careless,), settings)) as address:
        yield f"http://{address}"


CREATES = r"does not support conditional creation \(\d of 7 created the same key, where one may\)"
OVERWRITES = r"does not support conditional writes \(\d of 7 succeeded where one may\)"


@pytest.mark.parametrize(
    ("compares", "lists", "problem"),
    [(False, True, CREATES), (True, True, CREATES), (True, False, r"lists late \(a key just written is not listed\)")],
    ids=["ignores", "reads first", "lists late"],
)
def test_a_store_that_cannot_fence_is_rejected_with_the_missing_guarantee(
    s3_root: Root, compares: bool, lists: bool, problem: str
) -> None:
    with careless_store(compares=compares, lists=lists) as endpoint:
        root = Root(s3_root.spec.model_copy(update={"endpoint": endpoint}), s3_root.folder)
        with pytest.raises(RootUnusable, match=problem):
            open_root(root)


@pytest.mark.parametrize("compares", [False, True], ids=["ignores", "reads first"])
def test_doctor_names_the_guarantees_that_a_store_lacks(s3_root: Root, compares: bool) -> None:
    with careless_store(compares=compares, lists=True) as endpoint:
        result = CliRunner().invoke(app, ["doctor", s3_root.spec.root, "--endpoint", endpoint], env={"COLUMNS": "400"})
    assert result.exit_code == ExitCode.ROOT_UNUSABLE
    assert re.search(CREATES, result.stdout)
    assert re.search(OVERWRITES, result.stdout)
    assert result.stdout.count(" yes ") == 2


def test_no_two_writes_of_the_probe_have_the_same_content(s3_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation of S3 is a hash of the content. If a retry wrote the same content, two writers would pass although
    the store is correct."""
    count, written = Store.count_concurrent_swaps, list[bytes]()

    def first_answers_lost(store: Store, key: str, values: Sequence[bytes], generation: bytes) -> int:
        written.extend(values)
        winners = count(store, key, values, generation)
        return 0 if len(written) < 3 * len(values) else winners

    monkeypatch.setattr(Store, "count_concurrent_swaps", first_answers_lost)
    assert overwrite_problem(Store(s3_root.spec), "nonce") is None
    assert len(set(written)) == len(written) >= 12


def test_saving_by_steps_and_by_time(file_root: Root) -> None:
    spec = file_root.spec.model_validate(file_root.spec.document() | {"save": {"everySteps": 10, "everySeconds": 60}})
    times = iter([1000.0])
    with open_root(Root(spec, file_root.folder), clock=lambda: next(times)) as checkpointer:
        assert [step for step in range(31) if checkpointer.should_save(step)] == [10, 20, 30]
        assert [checkpointer.due(now) for now in (1000.0, 1059.0, 1060.0)] == [False, False, True]
        reader: Any = object()
        checkpointer.add_reader(reader, wants=lambda step: step == 7)
        assert [step for step in range(31) if checkpointer.should_save(step)] == [7, 10, 20, 30]
