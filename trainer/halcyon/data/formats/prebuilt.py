"""Format for rows that are already token ids, optionally with a loss weight for each."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from halcyon.data.formats.document import TokenizedDocument, bad_row, field_value
from halcyon.data.sources import SourceRow
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.sources import PrebuiltFormatSpec


class PrebuiltFormatter:
    """Takes ids unchanged. What the tokenizer puts before a text is added in front, with weight 0, if it is missing.
    Where it stands again inside of a row, another document begins.

    Args:
        spec: Names of the fields of ids and weights.
        tokenizer: Gives the range of the ids and the bytes of text of each id.
        where: The format's field in the run document; error messages begin with it.
        form: Rows of this format have none.
    """

    def __init__(self, spec: PrebuiltFormatSpec, tokenizer: Tokenizer, where: str, form: None = None) -> None:
        self._spec = spec
        self._where = f"{where}.prebuilt"
        self._vocab_size = tokenizer.vocab_size
        self._before = np.array(tokenizer.prefix, np.int32)
        self._token_bytes = np.asarray(tokenizer.token_bytes)

    notes = ()

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        return [document for index, row in enumerate(rows) for document in self._documents(index, row)]

    def _documents(self, index: int, row: SourceRow) -> Iterator[TokenizedDocument]:
        tokens = self._tokens(row)
        weights = self._weights(row, len(tokens))
        before = self._before
        if len(tokens) and not np.array_equal(tokens[: len(before)], before):
            tokens = np.concatenate([before, tokens])
            weights = None if weights is None else np.concatenate([np.zeros(len(before), np.float32), weights])
        bounds = [*_places(tokens, before), len(tokens)]
        for start, end in itertools.pairwise(bounds):
            mine = tokens[start:end]
            size_bytes = int(self._token_bytes[mine].sum(dtype=np.int64))
            yield TokenizedDocument(mine, None if weights is None else weights[start:end], size_bytes, index)

    def _tokens(self, row: SourceRow) -> np.ndarray:
        field, where = self._spec.tokens_field, f"{self._where}.tokensField"
        ids = _numbers(field_value(row, field, where))
        if ids is None or (ids.dtype.kind not in "iu" and len(ids)):
            raise bad_row(
                row, where, f"has a field {field!r} that is no list of whole numbers", "name the field of the token ids"
            )
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
        if weights is None:
            what, fix = f"has a field {field!r} that is no list of numbers", "name the field of the weights"
        elif len(weights) != tokens:
            what, fix = f"has {len(weights)} weights for {tokens} token ids", "give one weight for each"
        elif not ((weights >= 0) & (weights <= 1)).all():  # this form rejects a NaN too
            what, fix = "has a weight that is not from 0 to 1", "fix the weights"
        else:
            return weights.astype(np.float32)
        raise bad_row(row, where, what, fix)


def _places(tokens: np.ndarray, wanted: np.ndarray) -> list[int]:
    """Where some ids begin in a list of ids. Without ids to look for: its beginning."""
    if not len(wanted):
        return [0][: len(tokens)]
    places = np.flatnonzero(tokens == wanted[0]).tolist()
    return [place for place in places if np.array_equal(tokens[place : place + len(wanted)], wanted)]


def _numbers(value: object) -> np.ndarray | None:
    """A list or an array of numbers as an array with one axis; None for anything else."""
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iufb" else None
