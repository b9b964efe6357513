"""A bit is flipped in the memory of another process, in all places that have the bytes and in no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.memory import flip_bit, writable

KEEPER = """
import sys
kept = [bytearray.fromhex(sys.argv[1]), bytearray.fromhex(sys.argv[1]), bytearray(16)]
print("ready", flush=True)
sys.stdin.readline()
print(*(one.hex() for one in kept))
"""


def test_one_bit_is_flipped_in_the_memory_of_a_process() -> None:
    pattern = bytes(range(100, 116))
    # The process has the bytes as text in its arguments, and as bytes only in its two arrays.
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER, pattern.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert flip_bit(process.pid, pattern, 9) >= 2
        with pytest.raises(DevclusterError, match="these 16 bytes nowhere"):
            flip_bit(process.pid, bytes(range(200, 216)), 0)
        process.stdin.write("\n")
        process.stdin.flush()
        words = process.stdout.readline().split()
    changed = pattern[:1] + bytes([pattern[1] ^ 2]) + pattern[2:]
    assert words == [changed.hex(), changed.hex(), bytes(16).hex()]


def test_only_writable_ranges_are_searched() -> None:
    maps = "7f00-7f10 r--p 0 00:00 0 /lib\n7f10-7f20 rw-p 0 00:00 0 [heap]\n7f30-7f40 r-xp 0 0 0\n"
    assert list(writable(maps)) == [(0x7F10, 0x7F20)]
