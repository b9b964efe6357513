"""Passes documents from a worker process to the builder: through the pipe, and the tokens of long documents through a
file.

A message in a pipe is in memory several times: as arrays and as bytes, at the sender and at the receiver. For the four
million bytes of a usual piece this is negligible; for a document of a hundred million tokens it is more than all other
memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from halcyon.data.cache.shards import Part
from halcyon.data.sources.spill_file import SpillFile


@dataclass(frozen=True)
class SentParts:
    """The tokenized parts of a piece, on the way to the builder."""

    parts: tuple[Part, ...]
    """The parts; parts of long documents have no tokens here."""
    counts: tuple[int, ...]
    """Number of tokens of each part in the file."""
    aside: SpillFile | None
    """The file; None: no document is long."""

    def take(self) -> Iterator[Part]:
        """The parts with all their tokens; can be taken once."""
        content = None if self.aside is None else self.aside.take()
        offset = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            if not count or content is None:
                yield part
                continue
            tokens = np.frombuffer(content, part.documents.tokens.dtype, count, offset)
            offset += tokens.nbytes
            yield replace(part, documents=replace(part.documents, tokens=tokens))


def pack_parts(parts: Iterable[Part]) -> SentParts:
    """Prepare parts for sending; reads ``parts`` one by one."""
    sent: list[Part] = []
    counts: list[int] = []
    aside: SpillFile | None = None
    goes_on = False
    for part in parts:
        documents = part.documents
        long = goes_on or documents.open_tokens > 0
        goes_on = documents.open_tokens > 0
        if long:
            aside = aside or SpillFile.make()
            aside.append([documents.tokens.data.cast("B")])
            part = replace(part, documents=replace(documents, tokens=documents.tokens[:0].copy()))
        sent.append(part)
        counts.append(len(documents.tokens) if long else 0)
    return SentParts(tuple(sent), tuple(counts), aside)
