"""Small file systems for single tests, which are quickly full."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 520 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=520k") != 0:
        raise OSError(ctypes.get_errno(), "mount")
    yield folder
    library.umount2(os.fsencode(folder), 2)


def small_disk_free(folder: Path) -> int:
    """Free bytes."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
