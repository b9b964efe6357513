"""Format for rows that are texts: what the tokenizer puts before a text, the text, and the token that ends a
document.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from halcyon.data.formats.document import TokenizedDocument, bad_row, field_value, text_of, with_reference
from halcyon.data.forms.form import BadConversation, Form, kind_of, recognise
from halcyon.data.forms.turns import is_list, parsed
from halcyon.data.sources import SourceRow
from halcyon.data.sources.text_check import no_text, not_utf8
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer, around
from halcyon_api.spec.sources import FormatSpec, PairFormatSpec, TextFormatSpec

_TEXTS = ("content", "value", "text", "messages")
"""The keys of an object (a message, a part of one, a request) that hold its text."""
_SKIPPED = ("label", "rejected", "tools")


class TextFormatter:
    """Makes a document of each text that is not empty.

    Args:
        spec: Name of the field of the text. Rows of plain text files are texts themselves.
        tokenizer: Makes the ids.
        where: The format's field in the run document; error messages begin with it.
        form: Rows of this format have none.
    """

    def __init__(self, spec: TextFormatSpec, tokenizer: Tokenizer, where: str, form: None = None) -> None:
        self._field, self._label = spec.field, spec.label_field
        self._tokenizer = tokenizer
        self._where = f"{where}.text.field"
        self._before, self._after = around(tokenizer)
        if self._label is not None:  # the tokens of a request, for which no end of a document is written
            self._after = np.array(tokenizer.suffix, np.int32)

    notes = ()

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        texts = [self._text(row) for row in rows]
        kept = [index for index, text in enumerate(texts) if text]
        wanted = [texts[index] for index in kept]
        try:
            encoded = self._tokenizer.encode_batch(wanted)
        except UnicodeError:
            for index in kept:
                if isinstance(text := texts[index], str):
                    self._check_unicode(rows[index], text)
            raise
        return [
            self._document(rows[index], np.concatenate([self._before, ids, self._after]), size_in_bytes(text), index)
            for index, text, ids in zip(kept, wanted, encoded, strict=True)
        ]

    def _document(self, row: SourceRow, ids: np.ndarray, size_bytes: int, index: int) -> TokenizedDocument:
        if self._label is None:
            return TokenizedDocument(ids, None, size_bytes, index)
        label = text_of(field_value(row, self._label, self._where.replace("field", "labelField")))
        return with_reference(ids, label, size_bytes, index)

    def _text(self, row: SourceRow) -> str | bytes:
        if isinstance(row.value, bytes):
            return row.value
        text = field_value(row, self._field, self._where)
        if not isinstance(text, str | bytes):
            raise bad_row(
                row,
                self._where,
                f"has a field {self._field!r} that is {kind_of(text)}, not a text",
                "name the field of the text",
            )
        if wrong := no_text(text) or (not_utf8(text) if isinstance(text, bytes) else None):
            raise bad_row(row, self._where, *wrong)
        return text

    def _check_unicode(self, row: SourceRow, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            place = f"at character {error.start}"
            raise bad_row(row, self._where, f"has half a surrogate pair {place}", "fix the text") from None


class PairFormatter(TextFormatter):
    """Makes the documents of each row: the query, the text that belongs to it, and those that do not. They have the
    tokens of a request.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document; error messages begin with it.
        form: Rows of this format have none.
    """

    def __init__(self, spec: PairFormatSpec, tokenizer: Tokenizer, where: str, form: None = None) -> None:
        super().__init__(TextFormatSpec(), tokenizer, where)
        self._after = np.array(tokenizer.suffix, np.int32)
        self._spec, self._where = spec, f"{where}.pair"

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        texts = [text for row in rows for text in self._texts(row)]
        return [one._replace(row=one.row // self._spec.texts) for one in super().__call__(texts)]

    def _texts(self, row: SourceRow) -> list[SourceRow]:
        spec = self._spec
        lists = [np.array(field_value(row, name, self._where), object).ravel().tolist() for name in spec.row_fields]
        found = [*lists[0][:1], *lists[1][:1], *itertools.chain(*lists[2:])][: spec.texts]
        if len(found) < spec.texts or not all(text and isinstance(text, str) for text in found):
            what = f"has not {spec.texts} texts in the fields {', '.join(spec.row_fields)}"
            raise bad_row(row, self._where, what, "name the fields, lower negatives, or leave the row out")
        before = [spec.query_prefix, *[spec.text_prefix] * spec.texts]
        return [row._replace(value={self._field: one + text}) for one, text in zip(before, found, strict=False)]


def size_in_bytes(text: str | bytes) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())


def texts_of(spec: FormatSpec, rows: Iterable[SourceRow], *, where: str, form: Form | None = None) -> Iterator[str]:
    """The texts of some rows. Skips values that are not text, because the formatter reports them.

    Args:
        spec: The format of the rows.
        rows: The rows.
        where: The source's field in the run document, for error messages.
        form: The form of the source's rows. Default: that of each row.

    Raises:
        BadConfiguration: Rows of this format hold no text.
    """
    if spec.prebuilt is not None:
        raise BadConfiguration(
            f"{where}.format.prebuilt: a source of token ids has no text to train a tokenizer on; name a tokenizer in "
            "spec.tokenizer"
        )
    for row in rows:
        yield from _texts(spec, row.value, form)


def _texts(spec: FormatSpec, value: Any, form: Form | None) -> Iterator[str]:
    if isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif spec.speech is not None:
        yield from _strings(value.get(spec.speech.text_field))
    elif spec.text is not None:
        yield from _strings(value.get(spec.text.field))
    elif spec.row_fields is not None:
        yield from (text for field in spec.row_fields for text in _strings(value.get(field)))
    else:
        with contextlib.suppress(BadConversation):
            form = form or recognise(spec, value)
        for part, field in form.parts if form is not None else ():
            if part not in _SKIPPED:
                yield from _strings(value.get(field))


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, bytes):
        yield content.decode(errors="replace")
    elif isinstance(content, str):
        yield from _strings(parsed(content)) if is_list(content) else (content,)
    elif isinstance(content, list):
        for part in content:
            yield from _strings(part)
    elif isinstance(content, dict):
        yield from _strings(next((content[name] for name in _TEXTS if name in content), None))
