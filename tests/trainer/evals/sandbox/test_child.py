"""The seccomp filter, by an interpreter of its instructions, on both processors."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from halcyon.evals.sandbox.child import instructions

PROCESS = 4321
ALLOWED, KILLED, REFUSED = 0x7FFF0000, 0x80000000, 0x00050001
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers on x86_64 and aarch64, from the tables of Linux.
OPENAT, FCNTL, TGKILL, READ = (257, 56), (72, 25), (234, 131), (0, 63)
DANGEROUS = {
    "socket": (41, 198),
    "connect": (42, 203),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "kill": (62, 129),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "pidfd_open": (434, 434),
    "chmod": (268, 53),
    "unlinkat": (263, 35),
    "mount": (165, 40),
    "unshare": (272, 97),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "capset": (126, 91),
    "setuid": (105, 146),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "openat2": (437, 437),
    "memfd_create": (319, 279),
}


def answer(machine: str, number: int, arguments: Sequence[int] = (), architecture: int | None = None) -> int:
    """What the filter returns for a system call."""
    found = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("=IIQ6Q", number, found, 0, *[*arguments, *[0] * (6 - len(arguments))])
    program = list(struct.iter_unpack("=HBBI", instructions(machine, PROCESS)))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return value
        else:
            at += if_true if (accumulator == value if code == 0x15 else accumulator & value) else if_false


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_only_calls_that_compute_are_allowed(machine: str, column: int) -> None:
    assert answer(machine, READ[column]) == ALLOWED
    assert {name: answer(machine, numbers[column]) for name, numbers in DANGEROUS.items()} == dict.fromkeys(
        DANGEROUS, REFUSED
    )
    assert (
        answer(machine, READ[column], architecture=0x40000003) == KILLED
    )  # numbers of another architecture mean other calls
    assert answer(machine, OPENAT[column], (0, 0, 0)) == ALLOWED
    assert answer(machine, OPENAT[column], (0, 0, 0o1)) == REFUSED  # for writing
    assert answer(machine, OPENAT[column], (0, 0, 0o1000)) == REFUSED  # it would cut the file
    assert answer(machine, FCNTL[column], (0, 8, 1)) == REFUSED  # F_SETOWN: signals to another process
    assert answer(machine, TGKILL[column], (PROCESS, PROCESS, 6)) == ALLOWED
    assert answer(machine, TGKILL[column], (1, 1, 9)) == REFUSED
