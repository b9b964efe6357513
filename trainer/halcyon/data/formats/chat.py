"""Formats for rows that are conversations or pairs of conversations."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from halcyon.data.formats.assistant_spans import AssistantSpans
from halcyon.data.formats.conversation import check_messages, check_turns, is_learnt
from halcyon.data.formats.document import TokenizedDocument, bad_row
from halcyon.data.formats.form_rows import FormRows
from halcyon.data.formats.images import ImageReader, document_with
from halcyon.data.formats.template import DEFAULT_DAY, ChatTemplate, Rendered, day
from halcyon.data.forms.form import BadConversation, Form
from halcyon.data.forms.messages import conversation_of, pair_of
from halcyon.data.sources import Access, SourceRow
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.model_shape import ImageShape
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec, PreferenceFormatSpec


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
        self._spans = (
            AssistantSpans(self._template, tokenizer) if assistant_only and not self._template.has_generation else None
        )
        if self._spans is not None and not self._spans.finds_answers:
            raise BadConfiguration(
                f"{where}.template: it has no {{% generation %}} block and prints nothing of what the assistant says, "
                "so no token would count in the loss; put {% generation %} and {% endgeneration %} around what the "
                "assistant says"
            )

    @property
    def notes(self) -> list[str]:
        """What a user should know of the template, each as a sentence."""
        notes: list[str] = []
        where = f"{self._where}.template"
        if self._template.uses("strftime_now"):
            notes.append(
                f"{where}: it prints a date, and a training prints {self._date}; set {self._where}.date for another day"
            )
        if self._spans is not None:
            notes.append(
                f"{where}: it has no {{% generation %}} block, so what the assistant says is found by rendering each "
                "conversation with and without each of its messages; `halcyon data show` shows what counts"
            )
        end = self._template.turn_end()
        if self._assistant_only and self._spans is None and end is not None and not end.counted:
            notes.append(
                f"{where}: {end.spelling}, which ends the assistant's turn, stands outside of {{% generation %}}, so "
                "the model does not learn to stop; put it before {% endgeneration %}"
            )
        return notes

    def render(self, messages: list[dict[str, Any]], tools: Any = None, *, images: bool = False) -> Rendered | None:
        """A conversation; None if it is empty. It may have images only if `images`.

        Raises:
            BadConversation: It is not a conversation, or does not fit the template.
        """
        check_messages(messages, needs_assistant=self._assistant_only, alternate=self._template.is_own, images=images)
        if not messages:
            return None
        messages = self._template.fit(messages)
        if self._template.is_own:
            check_turns(messages)
        if self._system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system_prompt}, *messages]
        rendered = (self._spans or self._template).render(messages, tools)
        if self._spans is None and any(one["role"] == "assistant" and not is_learnt(one) for one in messages):
            rendered = self._learnt(rendered, messages, tools)
        return None if rendered.is_empty else rendered

    def _learnt(self, rendered: Rendered, messages: list[dict[str, Any]], tools: Any) -> Rendered:
        """A conversation in which only the answers that must be learnt count."""
        if not self._assistant_only:
            raise BadConversation(
                "has an answer that must not be learnt, and lossOn: all learns everything",
                "set lossOn: assistant, or leave the row out",
            )
        turns = self._turns.render(messages, tools).counted
        counted = [
            (start, end)
            for start, end in rendered.counted
            if any(start < last and first < end for first, last in turns)
        ]
        return rendered._replace(counted=counted)

    @cached_property
    def _turns(self) -> AssistantSpans:
        return AssistantSpans(self._template, self._tokenizer)

    def encode(self, conversations: Sequence[tuple[Rendered | None, int]]) -> list[TokenizedDocument]:
        """The documents of rendered conversations, each with the index of its row."""
        given = [(rendered, row) for rendered, row in conversations if rendered is not None]
        encodings = self._tokenizer.encode_rendered([rendered.text for rendered, _ in given])
        return [
            TokenizedDocument(
                encoded.tokens,
                encoded.within(rendered.counted).astype(np.float32) if self._assistant_only else None,
                rendered.size_bytes,
                row,
            )
            for (rendered, row), encoded in zip(given, encodings, strict=True)
        ]


class ChatFormatter:
    """Makes a document of each conversation that has messages.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document.
        form: The form of the source. Default: that of the first row.
        sight: See `halcyon.data.formats.build_formatter`.
        access: As there.
    """

    def __init__(
        self,
        spec: ChatFormatSpec,
        tokenizer: Tokenizer,
        where: str,
        form: Form | None = None,
        sight: ImageShape | None = None,
        access: Access | None = None,
    ) -> None:
        where = f"{where}.chat"
        self._images = None if sight is None else ImageReader(sight, tokenizer, where, access)
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
        images: dict[int, list[np.ndarray]] = {}

        def render(index: int, row: SourceRow, form: Form, fields: Mapping[str, Any]) -> Rendered | None:
            messages, tools = conversation_of(form, fields, self._tools_field)
            if self._images is None:
                return self._encoder.render(messages, tools)
            messages, images[index] = self._images.taken(messages, fields, row.file)
            found = self._encoder.render(messages, tools, images=True)
            return None if found is None else self._images.with_tokens(found, len(images[index]))

        read = [(self._rows.read(row, partial(render, index, row)), index) for index, row in enumerate(rows)]
        documents = self._encoder.encode(read)
        return [document_with(one, images[one.row]) for one in documents] if images else documents


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
        conversations: list[tuple[Rendered | None, int]] = []
        for index, row in enumerate(rows):
            chosen, rejected = self._rows.read(row, self._render)
            if (chosen is None) != (rejected is None):
                raise bad_row(
                    row, self._where, "has one of its two conversations empty", "give both, or leave the row out"
                )
            conversations += [(chosen, index), (rejected, index)]
        return self._encoder.encode(conversations)

    def _render(self, form: Form, fields: Mapping[str, Any]) -> list[Rendered | None]:
        pair = pair_of(form, fields)
        sides: list[Rendered | None] = []
        for part, messages in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            try:
                sides.append(self._encoder.render(messages, pair.tools))
            except BadConversation as bad:
                bad.part = part
                raise
        return sides
