"""Flips a bit in the memory of a running process, like a faulty memory cell or a particle."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from halcyon_devcluster.errors import DevclusterError

_WRITABLE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")
_PART_BYTES = 64 << 20


def flip_bit(pid: int, pattern: bytes, bit: int) -> int:
    """Flip one bit of every place in the writable memory of a process that has these bytes. The process stands still
    meanwhile.

    Args:
        pid: The process, on this machine.
        pattern: Bytes that only the wanted data has.
        bit: Index of the bit in the pattern, from its first byte on.

    Returns:
        The number of places.

    Raises:
        DevclusterError: No place has these bytes.
    """
    changed = bytearray(pattern)
    changed[bit // 8] ^= 1 << bit % 8
    with stopped(pid), Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        places = [
            place
            for first, last in writable(Path(f"/proc/{pid}/maps").read_text())
            for place in _places(memory.fileno(), first, last, pattern)
        ]
        for place in places:
            os.pwrite(memory.fileno(), changed, place)
    if not places:
        raise DevclusterError(f"process {pid} has these {len(pattern)} bytes nowhere in its memory.")
    return len(places)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process during the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def writable(maps: str) -> Iterator[tuple[int, int]]:
    """First address, and the one after the last, of each writable range of `/proc/PID/maps`. Pure."""
    for line in maps.splitlines():
        if (found := _WRITABLE.match(line)) is not None:
            yield int(found[1], 16), int(found[2], 16)


def _places(memory: int, first: int, last: int, pattern: bytes) -> Iterator[int]:
    for start in range(first, last, _PART_BYTES):
        try:
            part = os.pread(memory, min(_PART_BYTES + len(pattern) - 1, last - start), start)
        except OSError:  # a range of a device, or one that has just been unmapped
            continue
        found = part.find(pattern)
        while found >= 0:
            yield start + found
            found = part.find(pattern, found + len(pattern))
