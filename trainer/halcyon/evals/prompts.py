"""Tokens of prompts: by the model's chat template, or as plain text for a model without one."""

from __future__ import annotations

import numpy as np

from halcyon.evals.example import Prompt
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.generating import prompt_ids
from halcyon.tokenizer import Tokenizer


class Prompts:
    """Makes tokens of prompts.

    Args:
        tokenizer: The model's tokenizer.
        chat: The chat template. None: prompts are plain text.
    """

    def __init__(self, tokenizer: Tokenizer, chat: ChatPrompts | None) -> None:
        self.tokenizer, self._chat = tokenizer, chat

    @property
    def has_chat(self) -> bool:
        """Whether prompts are conversations."""
        return self._chat is not None

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.tokenizer.ends if self._chat is None else self._chat.ends

    def ids(self, prompt: Prompt) -> np.ndarray:
        """The tokens of a prompt up to the answer: int32 [tokens].

        Raises:
            BadConfiguration: The template does not take its messages.
        """
        if self._chat is not None:
            return self._chat.ids([dict(message) for message in prompt.messages])
        return prompt_ids(self.tokenizer, prompt.plain)

    def answer_ids(self, answer: str) -> np.ndarray:
        """The tokens of an answer after a prompt: int32 [tokens]. Plain text has a space before a short answer."""
        return self.tokenizer.encode(answer if self.has_chat else f" {answer}")

    def stop(self, prompt: Prompt) -> tuple[str, ...]:
        """Strings before which an answer ends."""
        return () if self.has_chat else prompt.stop
