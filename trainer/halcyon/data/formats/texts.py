"""Extracts the plain texts of rows, for training a tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from halcyon.data.forms.bad_conversation import BadConversation
from halcyon.data.forms.form import Form, recognise
from halcyon.data.forms.turns import is_list, parsed
from halcyon.data.sources import LongText, SourceRow
from halcyon.errors import BadConfiguration
from halcyon_api.spec.sources import FormatSpec

_TEXTS = ("content", "value", "text", "messages")
"""The keys of an object (a message, a part of one, a request) that hold its text."""
_SKIPPED = ("label", "rejected", "tools")


def texts_of(spec: FormatSpec, rows: Sequence[SourceRow], *, where: str, form: Form | None = None) -> Iterator[str]:
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
    elif isinstance(value, LongText):
        yield from value.strings()
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
    elif isinstance(content, LongText):
        yield from content.strings()
    elif isinstance(content, list):
        for part in content:
            yield from _strings(part)
    elif isinstance(content, dict):
        yield from _strings(next((content[name] for name in _TEXTS if name in content), None))
