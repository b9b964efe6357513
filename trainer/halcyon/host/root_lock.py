"""One training of a checkpoint root at a time on this machine.

In a cluster, a newer attempt takes the root from an older one. A user who starts a second training in the same root by
mistake would lose the steps of the first one. So a training outside a cluster locks a file of the user's cache whose
name follows from the root. The lock is a POSIX record lock: the kernel releases it when the process ends, even when
killed, and the processes that it started do not inherit it. So a dead process never blocks a root.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from halcyon.host.documents import CACHE
from halcyon.host.errors import RootTaken
from halcyon_api.local_roots import real_root
from halcyon_api.local_times import local_time

PARENT = "HALCYON_PARENT"
"""A variable with the process with which this one ends."""
STOPPED = ("T", "t")
"""States of a stopped process, such as by Ctrl-Z: it sees a signal only when it goes on."""
_PAUSE_SECONDS = 0.1
_ENDING_SECONDS = 120.0
"""Longest wait for a process that was asked to save and end."""


@dataclass(frozen=True)
class Holder:
    """The process that trains in a root."""

    pid: int
    command: str
    began: float
    """Seconds since 1970."""
    parent: int = 0
    """The process with which it ends, such as a sweep; 0: none."""

    @property
    def is_orphan(self) -> bool:
        """Whether it saves and ends now, because its parent was killed."""
        return self.parent > 0 and _state_and_parent(self.pid)[1] != str(self.parent)


@contextmanager
def held_root(
    root: str,
    command: str,
    *,
    folder: Path = CACHE / "locks",
    takes_over: Callable[[str], bool] = lambda sentence: False,
) -> Iterator[None]:
    """Hold a root until the end of the block.

    Args:
        root: Address of the root.
        command: What the user typed, for the message of a second process.
        folder: Where the lock files are. If it cannot be written, there is no lock.
        takes_over: Called with a sentence about the process that holds the root. True: that process is asked to save
            and end, and this one waits for it.

    Raises:
        RootTaken: Another process of this machine trains in the root.
    """
    descriptor = _opened(root, folder)
    if descriptor is None:
        yield
        return
    try:
        if not _try(descriptor):
            holder = _holder(descriptor)
            if not holder.is_orphan and not takes_over(_trains(root, holder)):
                follow = f"halcyon status {shlex.quote(_place(root))} --watch"
                goes_on = f" && kill -CONT {holder.pid}" if _state_and_parent(holder.pid)[0] in STOPPED else ""
                end = f"kill {holder.pid}{goes_on}"
                raise RootTaken(
                    f"{_trains(root, holder)}; stop it with `{end}` (it saves first), follow it with "
                    f"`{follow}`, or give --take-over to stop it and go on here"
                )
            _end(descriptor, holder)
        holder = Holder(os.getpid(), command, time.time(), int(os.environ.pop(PARENT, "0")))
        text = json.dumps(asdict(holder)).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)
        yield
    finally:
        os.close(descriptor)


def _opened(root: str, folder: Path) -> int | None:
    name = hashlib.sha256(real_root(root).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None


def _try(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # this file system has no locks
    return True


def _holder(descriptor: int) -> Holder:
    """The process that holds the lock. It writes its name just after it has taken the lock."""
    for _ in range(20):
        with contextlib.suppress(ValueError, TypeError, ProcessLookupError):
            holder = Holder(**json.loads(os.pread(descriptor, 65_536, 0)))
            os.kill(holder.pid, 0)
            return holder
        time.sleep(_PAUSE_SECONDS)
    raise RootTaken("another process of this machine takes this checkpoint root now; try again")


def _state_and_parent(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[:2]
    return ["", ""]


def _place(root: str) -> str:
    return root.removeprefix("file://")


def _trains(root: str, holder: Holder) -> str:
    return (
        f"process {holder.pid} (`{holder.command}`, since {local_time(holder.began)}) trains in "
        f"checkpoint root {_place(root)} already"
    )


def _end(descriptor: int, holder: Holder) -> None:
    """Ask a process to save and end, and wait for its lock."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGTERM)
        os.kill(holder.pid, signal.SIGCONT)  # a stopped process sees no other signal
    deadline = time.monotonic() + _ENDING_SECONDS
    while not _try(descriptor):
        if time.monotonic() >= deadline:
            raise RootTaken(
                f"process {holder.pid} did not end within {_ENDING_SECONDS:.0f} s; end it with "
                f"`kill -KILL {holder.pid}`, which loses its steps since the last checkpoint, and start again"
            )
        time.sleep(_PAUSE_SECONDS)
