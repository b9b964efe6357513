"""Finds what the assistant says in a conversation, for templates without ``{% generation %}``, which most published ones are.

A conversation is rendered again with another message in place of each message of the assistant. What differs is what the template printed
of the message. In front of it stands what the template prints to begin the assistant's turn; behind it stands the token that ends the
turn, which the assistant says too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halcyon.data.formats.template import ChatTemplate, Rendered
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.rendered import Range

_OTHER = "\ufdd5"
"""Another message: a noncharacter, so it has no letter in common with a message."""


class AssistantSpans:
    """Renders conversations, and finds what the assistant says in them.

    Args:
        template: A template without generation blocks.
        tokenizer: The tokenizer, for the tokens that end an answer.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        spellings = {token: spelling for spelling, token in tokenizer.special_tokens.items()}
        end = template.turn_end()
        named = () if end is None else (end.spelling,)
        self._ends = tuple(dict.fromkeys((*named, *(spellings[token] for token in tokenizer.ends if token in spellings))))

    @property
    def finds_answers(self) -> bool:
        """Whether the answer in the simplest conversation is found. True if the template takes no such conversation."""
        try:
            return bool(self.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": "halcyon"}]).counted)
        except Exception:  # the template is for other roles
            return True

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> Rendered:
        """The text of a conversation, with what the assistant says in it.

        Raises:
            TemplateError, TypeError, ValueError, ...: Any error of the template, for messages that do not fit it.
        """
        rendered = self._template.render(messages, tools)
        return Rendered(rendered.text, list(self._spans(rendered, messages, tools)))

    def _spans(self, rendered: Rendered, messages: Sequence[Mapping[str, Any]], tools: Any) -> Iterator[Range]:
        text = rendered.text.text
        for place, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            others = [*messages[:place], {"role": "assistant", "content": _OTHER}, *messages[place + 1 :]]
            other = self._template.render(others, tools).text.text
            start = _shared(text, other)
            same = _shared(text[start:][::-1], other[start:][::-1])
            end = self._with_end(rendered, len(text) - same)
            start = self._after_header(text[:start], messages[:place], tools)
            if start < end:
                yield start, end

    def _after_header(self, before: str, messages: Sequence[Mapping[str, Any]], tools: Any) -> int:
        """Where a turn begins: behind what the template prints to begin it, if that is there; else at the end of the text before."""
        try:
            asked, begun = (self._template.render(messages, tools, to_generate=wanted).text.text for wanted in (False, True))
        except Exception:  # no template must take a part of a conversation
            return len(before)
        header = begun[len(asked) :] if begun.startswith(asked) else ""
        found = before.rfind(header) if header else -1
        return len(before) if found < 0 else found + len(header)

    def _with_end(self, rendered: Rendered, end: int) -> int:
        """The end of a turn: behind the token that ends it, if only white space stands before that."""
        text = rendered.text.text
        following = next((span for span in rendered.text.special if span[0] >= end), None)
        if following is None or text[slice(*following)] not in self._ends or text[end : following[0]].strip():
            return end
        return following[1]


def _shared(first: str, second: str) -> int:
    """Number of characters that two texts begin with alike."""
    return next(
        (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), min(len(first), len(second))
    )
