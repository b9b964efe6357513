"""Budgets of sizes."""

MOST_IDS = 2**22
"""Ids of a vocabulary: four times those of the largest published ones. Arrays have an entry for each."""
FREE_BYTES = 64 * 2**20
MOST_GROWTH = 1100
"""A compressed file may become this many times longer; gzip cannot compress more.

The first `FREE_BYTES` are allowed to any file.
"""


class TooLong(Exception):
    """What comes out of a file is over its budget."""


class Expansion:
    """Counts the bytes that go into a decompressor and those that come out."""

    def __init__(self) -> None:
        self._read = self._written = 0

    def add(self, read: int, written: int) -> None:
        """Count some bytes.

        Raises:
            TooLong: More bytes came out than the file may have.
        """
        self._read += read
        self._written += written
        if self._written > FREE_BYTES + MOST_GROWTH * self._read:
            raise TooLong(f"its first {self._read:,} bytes become more than {self._written >> 20} MiB")
