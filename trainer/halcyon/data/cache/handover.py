"""From a worker process to the one that builds: documents go through the pipe, the tokens of long ones by a file.

The pipe holds a message several times: as arrays, as bytes, and both once more where it arrives. For the four million bytes of a usual
piece that is nothing; for a document of a hundred million tokens it is more than all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from halcyon.data.cache.shards import Part
from halcyon.data.sources.aside import Aside


@dataclass(frozen=True)
class HandedOver:
    """The parts that a piece was made into."""

    parts: tuple[Part, ...]
    """Those of long documents without tokens."""
    counts: tuple[int, ...]
    """How many tokens of each part are in the file."""
    aside: Aside | None

    def take(self) -> Iterator[Part]:
        """The parts, whole; can be taken once."""
        content = None if self.aside is None else self.aside.take()
        offset = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            if not count or content is None:
                yield part
                continue
            tokens = np.frombuffer(content, part.documents.tokens.dtype, count, offset)
            offset += tokens.nbytes
            yield replace(part, documents=replace(part.documents, tokens=tokens))


def hand_over(parts: Iterable[Part]) -> HandedOver:
    """Make parts ready to be sent; they are taken one by one."""
    sent: list[Part] = []
    counts: list[int] = []
    aside: Aside | None = None
    goes_on = False
    for part in parts:
        documents = part.documents
        long = goes_on or documents.open_tokens > 0
        goes_on = documents.open_tokens > 0
        if long:
            aside = aside or Aside.make()
            aside.append([documents.tokens.data.cast("B")])
            part = replace(part, documents=replace(documents, tokens=documents.tokens[:0].copy()))
        sent.append(part)
        counts.append(len(documents.tokens) if long else 0)
    return HandedOver(tuple(sent), tuple(counts), aside)
