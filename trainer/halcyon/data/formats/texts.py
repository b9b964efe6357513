"""Extracts the plain texts of rows, for training a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from halcyon.data.sources import LongText, SourceRow
from halcyon.data.sources.fields import needed_fields
from halcyon.errors import BadConfiguration
from halcyon_api.spec.sources import FormatSpec


def texts_of(spec: FormatSpec, rows: Sequence[SourceRow], *, where: str) -> Iterator[str]:
    """The texts of some rows. Skips values that are not text, because the formatter reports them.

    Args:
        spec: The format of the rows.
        rows: The rows.
        where: The source's field in the run document, for error messages.

    Raises:
        BadConfiguration: Rows of this format hold no text.
    """
    if spec.prebuilt is not None:
        raise BadConfiguration(
            f"{where}.format.prebuilt: a source of token ids has no text to train a tokenizer on; name a tokenizer in spec.tokenizer"
        )
    for row in rows:
        yield from _texts(spec, row.value)


def _texts(spec: FormatSpec, value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, LongText):
        yield from value.strings()
    elif spec.text is not None:
        yield from _strings(value.get(spec.text.field))
    else:
        for field in _message_fields(spec):
            messages = value.get(field)
            if not isinstance(messages, list):
                yield from _strings(messages)
            for message in messages if isinstance(messages, list) else []:
                yield from _strings(message.get("content") if isinstance(message, dict) else None)


def _message_fields(spec: FormatSpec) -> tuple[str, ...]:
    """The fields with messages. A field of a prompt may hold a text instead."""
    if spec.chat is not None:
        return (spec.chat.messages_field,)
    if spec.preference is not None:
        return (spec.preference.chosen_field,)
    return needed_fields(spec) if spec.prompt is not None else ()


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, bytes):
        yield content.decode(errors="replace")
    elif isinstance(content, str):
        yield content
    elif isinstance(content, LongText):
        yield from content.strings()
    elif isinstance(content, list):
        for part in content:
            yield from _strings(part.get("text") if isinstance(part, dict) else part)
