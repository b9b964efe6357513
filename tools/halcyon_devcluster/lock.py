"""One writer at a time: an advisory file lock. The kernel releases it when its holder ends, also after SIGKILL."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halcyon_devcluster.progress import ProgressView


@contextmanager
def exclusive(path: Path, progress: ProgressView) -> Iterator[None]:
    """Hold the lock at `path` during the block; if another process has it, show its id and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            progress.say(f"waiting for process {holder}, which holds the lock of {path.stem.lstrip('.')}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
