"""Prompts of conversations: the messages so far, and the beginning of the assistant's turn."""

from __future__ import annotations

from typing import Any

import numpy as np

from halcyon.data.formats.prompt import prompt_tokens
from halcyon.data.formats.template import ChatTemplate, Segment
from halcyon.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.special import CHAT_MARKS


class ChatPrompts:
    """Makes prompts with a chat template.

    Args:
        tokenizer: The model's tokenizer.
        template: Jinja template of the model. None: Halcyon's own.

    Raises:
        BadConfiguration: The template is not valid, or the tokenizer lacks special tokens of Halcyon's own.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None) -> None:
        self._tokenizer = tokenizer
        spellings = {token: spelling for spelling, token in tokenizer.special_tokens.items()}
        names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        self._template = ChatTemplate(
            template, tokenizer.special_tokens, {name: spellings.get(token, "") for name, token in names.items()}, "the chat template"
        )
        self._takes_tools = template is not None and "tools" in template
        self.ends = self._ends()
        """Tokens that end the assistant's turn."""

    @staticmethod
    def has_own_marks(tokenizer: Tokenizer) -> bool:
        """Whether Halcyon's own template fits a tokenizer."""
        return all(mark in tokenizer.special_tokens for mark in CHAT_MARKS)

    @property
    def takes_tools(self) -> bool:
        """Whether the template shows the tools of a conversation to the model."""
        return self._takes_tools

    def ids(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> np.ndarray:
        """The tokens of a conversation, up to the assistant's next words: int32 [tokens].

        Args:
            messages: Objects with ``role`` and ``content``.
            tools: The tools that the model may call, as the template takes them. None: no tools.

        Raises:
            BadConfiguration: The template does not take them.
        """
        return prompt_tokens(self._rendered(messages, tools, to_generate=True), self._tokenizer, own=self._template.is_own)

    def _rendered(self, messages: list[dict[str, Any]], tools: Any = None, *, to_generate: bool) -> list[Segment]:
        try:
            return self._template.render(messages, tools, to_generate=to_generate)
        except Exception as error:  # a template is code of the model's author, which may raise anything
            what = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise BadConfiguration(f"the chat template does not take these messages: {what}") from None

    def _ends(self) -> tuple[int, ...]:
        """The token that ends a document, and the special token after the assistant's words."""
        words = "halcyon"
        ends = [self._tokenizer.eos_id]
        try:
            segments = self._rendered([{"role": "user", "content": "?"}, {"role": "assistant", "content": words}], to_generate=False)
        except BadConfiguration:  # it is for other roles
            return tuple(ends)
        places = [at for at, (content, _) in enumerate(segments) if isinstance(content, str) and words in content]
        after = [content for content, _ in segments[places[-1] + 1 :] if isinstance(content, int)] if places else []
        return tuple(dict.fromkeys([*ends, *after[:1]]))
