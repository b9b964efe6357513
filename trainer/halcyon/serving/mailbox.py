"""Outputs of sequences on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from halcyon.inference.sequence import Output


class Mailbox:
    """Holds the outputs that a client has not read yet. Those of one text are joined, so it never holds more than the
    texts themselves.

    Args:
        texts: The number of texts.
        loop: The event loop of the reader.
    """

    def __init__(self, texts: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._changed = loop, asyncio.Event()
        self._outputs: dict[int, Output] = {}
        self._unfinished = texts

    def push(self, index: int, output: Output) -> None:
        """Add an output of a text. For other threads."""
        try:
            self._loop.call_soon_threadsafe(self._put, index, output)
        except RuntimeError:  # the loop is closed: the server has ended
            return

    def _put(self, index: int, output: Output) -> None:
        present = self._outputs.get(index)
        self._outputs[index] = output if present is None else present.joined(output)
        self._changed.set()

    async def outputs(self) -> AsyncIterator[tuple[int, Output]]:
        """The outputs in order, until each text has ended."""
        while self._unfinished:
            await self._changed.wait()
            self._changed.clear()
            taken, self._outputs = self._outputs, {}
            for index, output in taken.items():
                self._unfinished -= output.is_last
                yield index, output
