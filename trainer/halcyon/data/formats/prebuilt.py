"""Format for rows that are already token ids, optionally with a loss weight for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halcyon.data.formats.document import TokenizedDocument
from halcyon.data.formats.fields import bad_row, field_value
from halcyon.data.sources import SourceRow
from halcyon.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.sources import PrebuiltFormatSpec


class PrebuiltFormatter:
    """Takes ids unchanged. If the begin token is missing, it is added in front with weight 0.

    Args:
        spec: Names of the fields of ids and weights.
        tokenizer: Gives the range of the ids and the bytes of text of each id.
        where: The format's field in the run document; error messages begin with it.
    """

    documents_per_row = 1

    def __init__(self, spec: PrebuiltFormatSpec, tokenizer: Tokenizer, where: str) -> None:
        self._spec = spec
        self._where = f"{where}.prebuilt"
        self._vocab_size = tokenizer.vocab_size
        self._bos = tokenizer.bos_id
        self._token_bytes = np.asarray(tokenizer.token_bytes)

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        documents = (self._document(index, row) for index, row in enumerate(rows))
        return [document for document in documents if document is not None]

    def _document(self, index: int, row: SourceRow) -> TokenizedDocument | None:
        tokens = self._tokens(row)
        weights = self._weights(row, len(tokens))
        if not len(tokens):
            return None
        size_bytes = int(self._token_bytes[tokens].sum(dtype=np.int64))
        if tokens[0] != self._bos:
            tokens = np.concatenate([np.array([self._bos], np.int32), tokens])
            weights = None if weights is None else np.concatenate([np.zeros(1, np.float32), weights])
        return TokenizedDocument(tokens, weights, size_bytes, index)

    def _tokens(self, row: SourceRow) -> np.ndarray:
        field, where = self._spec.tokens_field, f"{self._where}.tokensField"
        ids = _numbers(field_value(row, field, where))
        if ids is None or (ids.dtype.kind not in "iu" and len(ids)):
            raise bad_row(row, where, f"has a field {field!r} that is no list of whole numbers", "name the field of the token ids")
        beyond = np.flatnonzero((ids < 0) | (ids >= self._vocab_size))
        if len(beyond):
            raise bad_row(
                row,
                where,
                f"has the id {ids[beyond[0]]} at place {beyond[0]}, beyond the tokenizer's {self._vocab_size} ids",
                "use the tokenizer that the ids were made with",
            )
        return ids.astype(np.int32)

    def _weights(self, row: SourceRow, tokens: int) -> np.ndarray | None:
        field, where = self._spec.weights_field, f"{self._where}.weightsField"
        if field is None:
            return None
        weights = _numbers(field_value(row, field, where))
        problem: BadConfiguration | None = None
        if weights is None or weights.dtype.kind not in "iufb":
            problem = bad_row(row, where, f"has a field {field!r} that is no list of numbers", "name the field of the weights")
        elif len(weights) != tokens:
            problem = bad_row(row, where, f"has {len(weights)} weights for {tokens} token ids", "give one weight for each")
        elif not ((weights >= 0) & (weights <= 1)).all():  # this form rejects a NaN too
            problem = bad_row(row, where, "has a weight that is not from 0 to 1", "fix the weights")
        if problem is not None or weights is None:
            raise problem or AssertionError
        return weights.astype(np.float32)


def _numbers(value: object) -> np.ndarray | None:
    """A list or an array of numbers as an array with one axis; None for anything else."""
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iufb" else None
