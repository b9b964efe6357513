"""Concatenates all documents and cuts them every ``sequence_length + 1`` tokens. The last sequence is padded, so no
text is dropped.

Sequences do not overlap, not even by the last token of one sequence, which could be the first input of the next. A
remainder of one token has no target, so it makes no sequence.
"""

import numpy as np

from halcyon.data.layout.spans import LayoutReport, Spans
from halcyon.data.order.permutation import checked_places


class Concatenate:
    """Concatenation layout.

    Args:
        tokens: Tokens of the stream.
        sequence_length: Positions per sequence.
    """

    spans_are_documents = False

    def __init__(self, tokens: int, sequence_length: int) -> None:
        self.sequence_length = sequence_length
        self._tokens = tokens
        full, rest = divmod(tokens, sequence_length + 1)
        self.sequences = full + (rest >= 2)

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens."""
        places = self.sequences * (self.sequence_length + 1)
        used = min(self._tokens, places)
        return LayoutReport(self.sequences, used, cropped=0, dropped=self._tokens - used, padding=places - used)

    def spans(self, indices: np.ndarray) -> Spans:
        """The one span of each sequence."""
        indices = checked_places(indices, self.sequences)
        stride = self.sequence_length + 1
        start = indices * stride
        length = np.minimum(stride, self._tokens - start).astype(np.int32)
        return Spans(np.arange(len(indices), dtype=np.int32), start, length)
