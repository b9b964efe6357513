"""Formats for rows that are conversations or pairs of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from halcyon.data.formats.conversation import BadConversation, check_messages, check_turns
from halcyon.data.formats.document import TokenizedDocument
from halcyon.data.formats.fields import bad_row, field_value
from halcyon.data.formats.template import ChatTemplate, Segment
from halcyon.data.formats.text import size_in_bytes
from halcyon.data.sources import SourceRow
from halcyon.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.sources import ChatFormatSpec, PreferenceFormatSpec


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
        if assistant_only and not self._template.has_generation:
            raise BadConfiguration(
                f"{where}.template: it has no {{% generation %}} block, so no token would count in the loss; "
                "put {% generation %} and {% endgeneration %} around what the assistant says"
            )

    def render(self, row: SourceRow, field: str, where: str, tools: Any = None) -> list[Segment]:
        """The segments of the conversation in a field of a row; an empty list if it has no messages.

        Raises:
            BadConfiguration: It is not a conversation, or does not fit the template.
        """
        try:
            messages = check_messages(field_value(row, field, where), needs_assistant=self._assistant_only)
            if not messages:
                return []
            if self._template.is_own:
                check_turns(messages)
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
    """Makes a document of each conversation that has messages."""

    documents_per_row = 1

    def __init__(self, spec: ChatFormatSpec, tokenizer: Tokenizer, where: str) -> None:
        self._spec = spec
        self._where = f"{where}.chat"
        self._encoder = ConversationEncoder(
            spec.template, tokenizer, self._where, assistant_only=spec.loss_on == "assistant", system_prompt=spec.system_prompt
        )

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        rendered = [_Rendered(self._render(row), index) for index, row in enumerate(rows)]
        return self._encoder.encode([one for one in rendered if one.segments])

    def _render(self, row: SourceRow) -> list[Segment]:
        field = self._spec.tools_field
        tools = row.value.get(field) if field is not None and isinstance(row.value, Mapping) else None
        return self._encoder.render(row, self._spec.messages_field, f"{self._where}.messagesField", tools)


class PreferenceFormatter:
    """Makes two documents of each pair that is not empty: the chosen one, then the rejected one. Only assistant turns count in the loss."""

    documents_per_row = 2

    def __init__(self, spec: PreferenceFormatSpec, tokenizer: Tokenizer, where: str) -> None:
        self._where = f"{where}.preference"
        self._fields = ((spec.chosen_field, f"{self._where}.chosenField"), (spec.rejected_field, f"{self._where}.rejectedField"))
        self._encoder = ConversationEncoder(spec.template, tokenizer, self._where)

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        rendered: list[_Rendered] = []
        for index, row in enumerate(rows):
            pair = [_Rendered(self._encoder.render(row, field, where), index) for field, where in self._fields]
            if bool(pair[0].segments) != bool(pair[1].segments):
                raise bad_row(row, self._where, "has one of its two conversations empty", "give both, or leave the row out")
            rendered.extend(one for one in pair if one.segments)
        return self._encoder.encode(rendered)
