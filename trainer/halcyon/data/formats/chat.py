"""Formats for rows that are conversations or pairs of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from halcyon.data.formats.assistant_spans import AssistantSpans
from halcyon.data.formats.conversation import Contents, check_messages, check_turns, has_parts, joined_texts
from halcyon.data.formats.document import TokenizedDocument, bad_row
from halcyon.data.formats.form_rows import FormRows
from halcyon.data.formats.template import DEFAULT_DAY, ChatTemplate, Rendered, day
from halcyon.data.forms.form import BadConversation, Form
from halcyon.data.forms.messages import conversation_of, pair_of
from halcyon.data.sources import SourceRow
from halcyon.errors import BadConfiguration
from halcyon.host.budgets.apart import OverBudget
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.rendered import EncodedText
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec, PreferenceFormatSpec


class _Conversation(NamedTuple):
    rendered: Rendered
    row: int


class ConversationEncoder:
    """Makes documents of conversations; used by both formats.

    Args:
        template: Jinja template; None: Halcyon's own.
        tokenizer: Makes the ids of text.
        where: The format's field in the run document.
        date: The day that the template prints.
        assistant_only: Only the assistant's tokens count in the loss.
        system_prompt: System message of conversations that have none.

    Raises:
        BadConfiguration: The template cannot be used.
    """

    def __init__(
        self,
        template: str | None,
        tokenizer: Tokenizer,
        where: str,
        date: str | None,
        *,
        assistant_only: bool = True,
        system_prompt: str | None = None,
    ) -> None:
        self._where = where
        self._tokenizer = tokenizer
        self._assistant_only = assistant_only
        self._date = date or DEFAULT_DAY
        self._system_prompt = system_prompt
        self._template = ChatTemplate(template, tokenizer, f"{where}.template", day(date))
        self._contents = None if self._template.is_own else contents_of(self._template)
        self._spans = (
            AssistantSpans(self._template, tokenizer) if assistant_only and not self._template.has_generation else None
        )
        if self._spans is not None and not self._spans.finds_answers:
            raise BadConfiguration(
                f"{where}.template: it has no {{% generation %}} block and prints nothing of what the assistant says, "
                "so no token would "
                "count in the loss; put {% generation %} and {% endgeneration %} around what the assistant says"
            )

    @property
    def notes(self) -> list[str]:
        """What a user should know of the template, each as a sentence."""
        found: list[str] = []
        where = f"{self._where}.template"
        if self._template.uses("strftime_now"):
            found.append(
                f"{where}: it prints a date, and a training prints {self._date}; set {self._where}.date for another day"
            )
        if self._spans is not None:
            found.append(
                f"{where}: it has no {{% generation %}} block, so what the assistant says is found by rendering each "
                "conversation with "
                "and without each of its messages; `halcyon data show` shows what counts"
            )
        end = self._template.turn_end()
        if self._assistant_only and self._spans is None and end is not None and not end.counted:
            found.append(
                f"{where}: {end.spelling}, which ends the assistant's turn, stands outside of {{% generation %}}, so "
                "the model does not "
                "learn to stop; put it before {% endgeneration %}"
            )
        return found

    def render(self, row: SourceRow, messages: list[dict[str, Any]], where: str, tools: Any = None) -> Rendered | None:
        """A conversation of a row; None if it is empty.

        Raises:
            BadConfiguration: It is not a conversation, or does not fit the template.
        """
        try:
            check_messages(messages, needs_assistant=self._assistant_only)
            if not messages:
                return None
            if self._contents is None:
                check_turns(messages := own_contents(messages))
            else:
                messages = self._contents.fit(messages)
        except BadConversation as bad:
            raise bad_row(row, where, str(bad), bad.fix) from None
        if self._system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system_prompt}, *messages]
        try:
            rendered = (self._spans or self._template).render(messages, tools)
        except OverBudget:
            raise
        except Exception as error:  # a template is user code, which may raise anything
            what = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise bad_row(row, where, f"does not fit the template: {what}", "fix the row, or the template") from None
        return None if rendered.is_empty else rendered

    def encode(self, conversations: Sequence[_Conversation]) -> list[TokenizedDocument]:
        """The documents of rendered conversations."""
        encoded = self._tokenizer.encode_rendered([one.rendered.text for one in conversations])
        return [self._document(*pair) for pair in zip(conversations, encoded, strict=True)]

    def _document(self, conversation: _Conversation, encoded: EncodedText) -> TokenizedDocument:
        rendered = conversation.rendered
        weights = encoded.within(rendered.counted).astype(np.float32) if self._assistant_only else None
        return TokenizedDocument(encoded.tokens, weights, rendered.size_bytes, conversation.row)


class ChatFormatter:
    """Makes a document of each conversation that has messages.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document.
        form: The form of the source. Default: that of the first row.
    """

    def __init__(self, spec: ChatFormatSpec, tokenizer: Tokenizer, where: str, form: Form | None = None) -> None:
        where = f"{where}.chat"
        self._tools_field = spec.tools_field
        self._rows = FormRows(FormatSpec(chat=spec), form, where, {"messages": "messagesField", "tools": "toolsField"})
        self._encoder = ConversationEncoder(
            spec.template,
            tokenizer,
            where,
            spec.date,
            assistant_only=spec.loss_on == "assistant",
            system_prompt=spec.system_prompt,
        )

    @property
    def notes(self) -> list[str]:
        """See `Formatter`."""
        return self._encoder.notes

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        found = [(self._render(row), index) for index, row in enumerate(rows)]
        return self._encoder.encode(
            [_Conversation(rendered, index) for rendered, index in found if rendered is not None]
        )

    def _render(self, row: SourceRow) -> Rendered | None:
        found = self._rows.read(row, lambda form, fields: conversation_of(form, fields, self._tools_field))
        return self._encoder.render(row, found.messages, self._rows.where_of(None), found.tools)


class PreferenceFormatter:
    """Makes two documents of each pair that is not empty: the chosen one, then the rejected one. Only assistant turns
    count in the loss.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document.
        form: The form of the source. Default: that of the first row.
    """

    def __init__(self, spec: PreferenceFormatSpec, tokenizer: Tokenizer, where: str, form: Form | None = None) -> None:
        self._where = f"{where}.preference"
        parts = {"chosen": "chosenField", "rejected": "rejectedField", "question": "promptField"}
        self._rows = FormRows(FormatSpec(preference=spec), form, self._where, parts)
        self._encoder = ConversationEncoder(spec.template, tokenizer, self._where, spec.date)

    @property
    def notes(self) -> list[str]:
        """See `Formatter`."""
        return self._encoder.notes

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        found: list[_Conversation] = []
        for index, row in enumerate(rows):
            pair_found = self._rows.read(row, pair_of)
            sides = (("chosen", pair_found.chosen), ("rejected", pair_found.rejected))
            pair = [
                self._encoder.render(row, messages, self._rows.where_of(part), pair_found.tools)
                for part, messages in sides
            ]
            given = [_Conversation(one, index) for one in pair if one is not None]
            if len(given) == 1:
                raise bad_row(
                    row, self._where, "has one of its two conversations empty", "give both, or leave the row out"
                )
            found += given
        return self._encoder.encode(found)


def own_contents(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as Halcyon's own template takes them: the developer is the system, and only the assistant's content may
    have parts.

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
    return Contents(lambda messages: template.render(messages).text.text)
