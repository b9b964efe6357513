"""Parts of texts on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from halcyon.serving.sequence import Part


class Mailbox:
    """Holds the parts that a client has not read yet. Parts of one text are joined, so it never holds more than the texts themselves.

    Args:
        texts: The number of texts.
        loop: The event loop of the reader.
    """

    def __init__(self, texts: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._changed = loop, asyncio.Event()
        self._parts: dict[int, Part] = {}
        self._unfinished = texts

    def push(self, index: int, part: Part) -> None:
        """Add a part of a text. For other threads."""
        try:
            self._loop.call_soon_threadsafe(self._put, index, part)
        except RuntimeError:  # the loop is closed: the server has ended
            return

    def _put(self, index: int, part: Part) -> None:
        present = self._parts.get(index)
        self._parts[index] = part if present is None else present.joined(part)
        self._changed.set()

    async def parts(self) -> AsyncIterator[tuple[int, Part]]:
        """The parts in order, until each text has ended."""
        while self._unfinished:
            await self._changed.wait()
            self._changed.clear()
            taken, self._parts = self._parts, {}
            for index, part in taken.items():
                self._unfinished -= part.is_last
                yield index, part
