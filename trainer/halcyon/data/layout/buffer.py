"""A buffer of documents that are taken by length."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque


class Buffer:
    """The buffer: documents sorted by length.

    One queue for each existing length keeps large buffers as fast as small ones.
    """

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._queues: dict[int, deque[int]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, length: int, number: int) -> None:
        """Add a document."""
        queue = self._queues.get(length)
        if queue is None:
            insort(self._lengths, length)
            self._queues[length] = deque((number,))
        else:
            queue.append(number)
        self._size += 1

    def take(self, missing: int) -> tuple[int, int]:
        """Length and number of the longest document of at most ``missing`` tokens, else of the shortest document; (0,
        0) if empty.
        """
        if not self._size:
            return 0, 0
        return self._taken(max(0, bisect_right(self._lengths, missing) - 1))

    def take_fitting(self, missing: int) -> tuple[int, int]:
        """Length and number of the longest document of at most ``missing`` tokens; (0, 0) if none fits."""
        place = bisect_right(self._lengths, missing) - 1
        return self._taken(place) if place >= 0 else (0, 0)

    def _taken(self, place: int) -> tuple[int, int]:
        length = self._lengths[place]
        queue = self._queues[length]
        number = queue.popleft()
        if not queue:
            del self._lengths[place], self._queues[length]
        self._size -= 1
        return length, number
