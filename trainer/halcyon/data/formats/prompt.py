"""The format of prompts for answers that the model samples: a document is a prompt, followed by the reference of its
reward.

The tokens of the prompt have weight 0. The reference follows as its bytes in UTF-8, with weight 1
(`halcyon.data.layout.prompts`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from halcyon.data.formats.conversation import check_messages
from halcyon.data.formats.document import TokenizedDocument, text_of, with_reference
from halcyon.data.formats.form_rows import FormRows
from halcyon.data.formats.template import ChatTemplate, Rendered, day, prompt_tokens
from halcyon.data.formats.text import size_in_bytes
from halcyon.data.forms.form import BadConversation, Form
from halcyon.data.forms.messages import prompt_of
from halcyon.data.sources import SourceRow
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.sources import FormatSpec, PromptFormatSpec


class PromptFormatter:
    """Makes a document of each prompt that is not empty.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document.
        form: The form of the source. Default: that of the first row.

    Raises:
        BadConfiguration: The template cannot be used.
    """

    def __init__(self, spec: PromptFormatSpec, tokenizer: Tokenizer, where: str, form: Form | None = None) -> None:
        where = f"{where}.prompt"
        self._tokenizer = tokenizer
        parts = {"messages": "field", "question": "field", "answer": "referenceField"}
        self._rows = FormRows(FormatSpec(prompt=spec), form, where, parts)
        self._template = ChatTemplate(spec.template, tokenizer, f"{where}.template", day(spec.date))

    notes = ()

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows; see `Formatter`."""
        return [
            self._document(index, *prompt)
            for index, row in enumerate(rows)
            if (prompt := self._rows.read(row, self._render)) is not None
        ]

    def _render(self, form: Form, fields: Mapping[str, Any]) -> tuple[Rendered, str] | None:
        """The rendered prompt, and the reference; None for an empty row."""
        prompt = prompt_of(form, fields)
        try:
            check_messages(prompt.messages, needs_assistant=False, alternate=self._template.is_own)
            if not prompt.messages:
                return None
            *before, last = prompt.messages
            answer = last if last["role"] == "assistant" else {}
            asked = before if answer else prompt.messages
            if not asked:
                raise BadConversation(
                    "has an answer and no message before it", "add the question, or leave the row out"
                )
            reference = text_of(prompt.reference if prompt.has_reference else answer.get("content"))
            rendered = self._template.render(self._template.fit(asked), prompt.tools, to_generate=True)
        except BadConversation as bad:
            bad.part = "messages"
            raise
        return None if rendered.is_empty else (rendered, reference)

    def _document(self, index: int, rendered: Rendered, reference: str) -> TokenizedDocument:
        prompt = prompt_tokens(rendered, self._tokenizer)
        return with_reference(prompt, reference, rendered.size_bytes + size_in_bytes(reference), index)
