"""A full disk costs the checkpoint, never the training and never an older checkpoint."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from halcyon.checkpoint import SaveFailed, list_checkpoints, verify_checkpoint
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.checkpoint.helpers import REPOSITORY, Root, mesh, numbers, on, open_root, position, same_bits, template

INSIDE = "HALCYON_TEST_SMALL_DISK"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=512k") != 0:
        raise OSError(ctypes.get_errno(), "mount")
    yield folder
    library.umount2(os.fsencode(folder), 2)


@pytest.mark.skipif(os.geteuid() == 0 or INSIDE in os.environ, reason="the test itself runs where it may mount")
def test_in_a_namespace_of_its_own() -> None:
    """Where only the superuser may mount, he is one in a user namespace."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "pytest", "-q", __file__]
    subprocess.run(command, check=True, env=os.environ | {INSIDE: "1"}, cwd=REPOSITORY)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount; see the test before")
def test_a_save_onto_a_full_disk(small_disk: Path) -> None:
    devices = mesh(2, 2)
    root = Root(CheckpointSpec(root=f"file://{small_disk}/root"), small_disk / "root")

    def large(step: int) -> dict[str, object]:
        return {**numbers(step), "counts": np.full((8, 3 << 14), step, np.int32)}  # 1.5 MiB

    failures: list[str] = []
    with open_root(root) as checkpointer:
        checkpointer.on_failure = failures.append
        for step in (1, 2):
            checkpointer.save(step, on(devices, numbers(step)), position(step))
            checkpointer.finish()
        head = (root.folder / "HEAD").read_bytes()
        checkpointer.save(3, on(devices, large(3)), position(3))
        with pytest.raises(SaveFailed, match=r"^the checkpoint at step 3 was not saved: checkpoint root .* has no space left; free some"):
            checkpointer.finish()
        assert failures == [checkpointer.last_error]
        assert (root.folder / "HEAD").read_bytes() == head
        assert list_checkpoints(root.spec).unfinished == (), "its own part is removed, so the next one has room"
        assert [verify_checkpoint(root.spec, entry) for entry in list_checkpoints(root.spec).committed] == [(), ()]

        (small_disk / "filler").write_bytes(b"x" * (small_disk_free(small_disk) - 4096))
        checkpointer.save(4, on(devices, numbers(4)), position(4))
        with pytest.raises(SaveFailed, match=r"step 4 was not saved: .* no space left"):
            checkpointer.finish()
        (small_disk / "filler").unlink()

        checkpointer.save(5, on(devices, numbers(5)), position(5))
        checkpointer.finish()
        assert checkpointer.last_error is None
    with open_root(root) as checkpointer:
        restored = checkpointer.restore(template(devices))
    assert restored is not None
    assert same_bits(restored.state, numbers(5))
    assert [entry.step for entry in list_checkpoints(root.spec).committed] == [5, 2]


def small_disk_free(folder: Path) -> int:
    """Free bytes."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
