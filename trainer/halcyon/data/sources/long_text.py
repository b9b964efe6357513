"""Texts that are too long to be in memory as a whole.

A document of 400 million characters takes up to 1.6 GB as a Python string, and twice that while it is made. So a
file of text longer than `LONG_BYTES` is decoded part by part while it is tokenized.
"""

from collections.abc import Callable, Iterator

LONG_BYTES = 8 * 2**20
"""Texts above this size are tokenized part by part."""


class LongText:
    """A text of more than `LONG_BYTES`, decoded part by part. It can be read several times.

    Args:
        read: Starts a new read: yields parts that are strings, or parts that are bytes of UTF-8, cut anywhere.
    """

    def __init__(self, read: Callable[[], Iterator[str | bytes]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[str | bytes]:
        """The text in parts.

        Raises:
            BadConfiguration: It cannot be read, or is not text.
        """
        return self._read()

    def whole(self) -> str | bytes:
        """The whole text in memory."""
        parts = list(self)
        raw = [part for part in parts if isinstance(part, bytes)]
        return b"".join(raw) if raw else "".join(part for part in parts if isinstance(part, str))
