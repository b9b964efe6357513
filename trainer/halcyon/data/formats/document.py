"""The documents that formats make of rows, and the protocol of a format."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from halcyon.data.forms.form import BadValue
from halcyon.data.sources import SourceRow
from halcyon.host.errors import BadConfiguration


class TokenizedDocument(NamedTuple):
    """One document as token ids.

    Args:
        tokens: Ids, those around the text included: int32, shape [tokens].
        weights: Loss weight of the prediction of each token, 0 to 1: float32, shape [tokens]. None: all are 1.
        size_bytes: Bytes of the document's text in UTF-8.
        row: Index of its row among the given rows.
    """

    tokens: np.ndarray
    weights: np.ndarray | None
    size_bytes: int
    row: int


class Formatter(Protocol):
    """Makes documents of rows. The documents of a row do not depend on the other rows of the call."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of the format with this tokenizer, each as a sentence."""
        ...

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows, in order.

        Raises:
            BadConfiguration: A row does not have this format. The message names its file and number.
        """
        ...


def fields_of(row: SourceRow, where: str) -> dict[str, Any]:
    """The fields of a row.

    Raises:
        BadConfiguration: The row has no fields.
    """
    if not isinstance(row.value, dict):
        fix = "use a source whose rows have fields, such as jsonl or csv, or the format text"
        raise bad_row(row, where, "has no fields: it is plain text", fix)
    return row.value


def field_value(row: SourceRow, name: str, where: str) -> Any:
    """A field of a row.

    Raises:
        BadConfiguration: The row has no such field, or has no fields at all.
    """
    fields = fields_of(row, where)
    try:
        value = fields[name]
    except KeyError:
        names = ", ".join(list(fields)[:20])
        raise bad_row(
            row,
            where,
            f"has no field {name!r}" + (f", only {names}" if names else ""),
            "name the field, or fix the row",
        ) from None
    if isinstance(value, BadValue):
        raise bad_row(row, where, f"{value.problem} in the field {name!r}", value.fix)
    return value


def bad_row(row: SourceRow, where: str, what: str, fix: str) -> BadConfiguration:
    """The error about one row."""
    return BadConfiguration(f"{where}: row {row.number} (counted from 0) of {row.file} {what}; {fix}")


def with_reference(tokens: np.ndarray, reference: str, size_bytes: int, row: int) -> TokenizedDocument:
    """A document of tokens that have weight 0, then a text as its bytes in UTF-8, with weight 1
    (`halcyon.data.layout.prompts`).
    """
    wanted = np.frombuffer(reference.encode(errors="replace"), np.uint8)
    weights = np.repeat(np.array([0, 1], np.float32), [len(tokens), len(wanted)])
    joined = np.concatenate([tokens, wanted]).astype(np.int32, copy=False)
    return TokenizedDocument(joined, weights, size_bytes, row)


def text_of(value: Any) -> str:
    """A reference as text.

    The texts of a message's parts are joined; any other value that is not a text becomes JSON, in the order of the row.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in value)
    ):
        return "".join(part["text"] for part in value)
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
