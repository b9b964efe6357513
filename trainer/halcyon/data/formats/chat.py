"""Formats for rows that are conversations or pairs of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from halcyon.data.formats.contents import Contents, has_parts, joined_texts
from halcyon.data.formats.conversation import check_messages, check_turns
from halcyon.data.formats.document import TokenizedDocument
from halcyon.data.formats.fields import bad_row
from halcyon.data.formats.form_rows import FormRows
from halcyon.data.formats.template import ChatTemplate, Segment
from halcyon.data.formats.text import size_in_bytes
from halcyon.data.forms.bad_conversation import BadConversation
from halcyon.data.forms.form import Form
from halcyon.data.forms.messages import conversation_of, pair_of
from halcyon.data.sources import SourceRow
from halcyon.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec, PreferenceFormatSpec


class _Rendered(NamedTuple):
    segments: list[Segment]
    row: int


class ConversationEncoder:
    """Makes documents of conversations; used by both formats.

    Args:
        template: Jinja template; None: Halcyon's own.
        tokenizer: Makes the ids of text.
        where: The format's field in the run document.
        assistant_only: Only the assistant's tokens count in the loss.
        system_prompt: System message of conversations that have none.

    Raises:
        BadConfiguration: The template cannot be used.
    """

    def __init__(
        self, template: str | None, tokenizer: Tokenizer, where: str, *, assistant_only: bool = True, system_prompt: str | None = None
    ) -> None:
        special = tokenizer.special_tokens
        spellings = {token: spelling for spelling, token in special.items()}
        names = {
            "bos_token": spellings.get(tokenizer.bos_id, ""),
            "eos_token": spellings.get(tokenizer.eos_id, ""),
            "pad_token": spellings.get(tokenizer.pad_id, ""),
        }
        self._where = where
        self._tokenizer = tokenizer
        self._assistant_only = assistant_only
        self._system_prompt = system_prompt
        self._template = ChatTemplate(template, special, names, f"{where}.template")
        self._contents = None if self._template.is_own else contents_of(self._template)
        if assistant_only and not self._template.has_generation:
            raise BadConfiguration(
                f"{where}.template: it has no {{% generation %}} block, so no token would count in the loss; "
                "put {% generation %} and {% endgeneration %} around what the assistant says"
            )

    def render(self, row: SourceRow, messages: list[dict[str, Any]], where: str, tools: Any = None) -> list[Segment]:
        """The segments of a conversation of a row; an empty list if it has no messages.

        Raises:
            BadConfiguration: It is not a conversation, or does not fit the template.
        """
        try:
            check_messages(messages, needs_assistant=self._assistant_only)
            if not messages:
                return []
            if self._contents is None:
                check_turns(messages := own_contents(messages))
            else:
                messages = self._contents.fit(messages)
        except BadConversation as bad:
            raise bad_row(row, where, str(bad), bad.fix) from None
        if self._system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system_prompt}, *messages]
        try:
            return self._template.render(messages, tools)
        except Exception as error:  # a template is user code, which may raise anything
            what = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise bad_row(row, where, f"does not fit the template: {what}", "fix the row, or the template") from None

    def encode(self, conversations: Sequence[_Rendered]) -> list[TokenizedDocument]:
        """The documents of rendered conversations."""
        texts = [segment.content for one in conversations for segment in one.segments if isinstance(segment.content, str)]
        encoded = iter(self._tokenizer.encode_batch(texts))
        return [self._document(one, encoded) for one in conversations]

    def _document(self, conversation: _Rendered, encoded: Any) -> TokenizedDocument:
        segments = conversation.segments
        parts: list[np.ndarray] = []
        counts: list[bool] = []
        size_bytes = 0
        if segments[0].content != self._tokenizer.bos_id:
            parts.append(np.array([self._tokenizer.bos_id], np.int32))
            counts.append(False)
        for content, counted in segments:
            if isinstance(content, str):
                parts.append(next(encoded))
                size_bytes += size_in_bytes(content)
            else:
                parts.append(np.array([content], np.int32))
            counts.append(counted)
        weights = np.repeat(np.array(counts, np.float32), [len(part) for part in parts]) if self._assistant_only else None
        return TokenizedDocument(np.concatenate(parts).astype(np.int32, copy=False), weights, size_bytes, conversation.row)


class ChatFormatter:
    """Makes a document of each conversation that has messages.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document.
        form: The form of the source. Default: that of the first row.
    """

    documents_per_row = 1

    def __init__(self, spec: ChatFormatSpec, tokenizer: Tokenizer, where: str, form: Form | None = None) -> None:
        where = f"{where}.chat"
        self._tools_field = spec.tools_field
        self._rows = FormRows(FormatSpec(chat=spec), form, where, {"messages": "messagesField", "tools": "toolsField"})
        self._encoder = ConversationEncoder(
            spec.template, tokenizer, where, assistant_only=spec.loss_on == "assistant", system_prompt=spec.system_prompt
        )

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        rendered = [_Rendered(self._render(row), index) for index, row in enumerate(rows)]
        return self._encoder.encode([one for one in rendered if one.segments])

    def _render(self, row: SourceRow) -> list[Segment]:
        found = self._rows.read(row, lambda form, fields: conversation_of(form, fields, self._tools_field))
        return self._encoder.render(row, found.messages, self._rows.where_of(None), found.tools)


class PreferenceFormatter:
    """Makes two documents of each pair that is not empty: the chosen one, then the rejected one. Only assistant turns count in the loss.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document.
        form: The form of the source. Default: that of the first row.
    """

    documents_per_row = 2

    def __init__(self, spec: PreferenceFormatSpec, tokenizer: Tokenizer, where: str, form: Form | None = None) -> None:
        self._where = f"{where}.preference"
        parts = {"chosen": "chosenField", "rejected": "rejectedField", "question": "promptField"}
        self._rows = FormRows(FormatSpec(preference=spec), form, self._where, parts)
        self._encoder = ConversationEncoder(spec.template, tokenizer, self._where)

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        rendered: list[_Rendered] = []
        for index, row in enumerate(rows):
            found = self._rows.read(row, pair_of)
            sides = (("chosen", found.chosen), ("rejected", found.rejected))
            pair = [
                _Rendered(self._encoder.render(row, messages, self._rows.where_of(part), found.tools), index) for part, messages in sides
            ]
            if bool(pair[0].segments) != bool(pair[1].segments):
                raise bad_row(row, self._where, "has one of its two conversations empty", "give both, or leave the row out")
            rendered.extend(one for one in pair if one.segments)
        return self._encoder.encode(rendered)


def own_contents(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as Halcyon's own template takes them: the developer is the system, and only the assistant's content may have parts.

    Raises:
        BadConversation: The content of another message has a part that is no text.
    """
    messages = [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]
    return [
        {**message, "content": joined_texts(message["content"], place)}
        if message["role"] != "assistant" and has_parts(message)
        else message
        for place, message in enumerate(messages)
    ]


def contents_of(template: ChatTemplate) -> Contents:
    """The contents that a template takes."""
    return Contents(lambda messages: "".join(str(segment.content) for segment in template.render(messages)))
