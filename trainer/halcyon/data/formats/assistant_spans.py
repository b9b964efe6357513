"""Finds what the assistant says in a conversation, for templates without ``{% generation %}``, which most published
ones are.

A conversation is rendered again with another message in place of each message of the assistant. What differs is what
the template printed of the message. The turn begins where the prompt of the message ends; behind it stand the tokens
that end the turn, which the assistant says too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halcyon.data.formats.conversation import is_learnt
from halcyon.data.formats.template import ChatTemplate, DoesNotFit, Rendered
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
        named = [spellings[token] for token in tokenizer.ends if token in spellings]
        self._ends = frozenset([*self._after_answers(), *named])

    @property
    def finds_answers(self) -> bool:
        """Whether the answer in the simplest conversation is found. True if the template takes no such conversation."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "halcyon"}]
        try:
            return bool(self.render(messages).counted)
        except DoesNotFit:  # the template is for other roles
            return True

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> Rendered:
        """The text of a conversation, with what the assistant says in it.

        Raises:
            DoesNotFit: The template raised an error.
        """
        rendered = self._template.render(messages, tools)
        return Rendered(rendered.text, list(self._spans(rendered, messages, tools)))

    def _spans(self, rendered: Rendered, messages: Sequence[Mapping[str, Any]], tools: Any) -> Iterator[Range]:
        text = rendered.text.text
        for place, message in enumerate(messages):
            if not is_learnt(message):
                continue
            others = [*messages[:place], {"role": "assistant", "content": _OTHER}, *messages[place + 1 :]]
            other = self._template.render(others, tools).text.text
            start = _shared(text, other)
            end = len(text) - _shared(text[start:][::-1], other[start:][::-1])
            end = self._with_end(rendered, min(end, self._next_turn(text, messages[: place + 1], tools)))
            start = self._after_prompt(text, start, messages[:place], tools)
            if start < end:
                yield start, end

    def _after_prompt(self, text: str, start: int, messages: Sequence[Mapping[str, Any]], tools: Any) -> int:
        """Where a turn begins: where its prompt ends, or behind what the prompt prints to begin it, if that is there;
        else at `start`.

        Args:
            text: The whole conversation.
            start: Where the text depends on the message.
            messages: Those before.
            tools: The tools of the conversation.
        """
        try:
            asked, begun = (
                self._template.render(messages, tools, to_generate=wanted).text.text for wanted in (False, True)
            )
        except DoesNotFit:  # no template must take a part of a conversation
            return start
        if text.startswith(begun):
            return min(start, len(begun))
        header = begun[len(asked) :] if begun.startswith(asked) else ""
        place = text.rfind(header, max(0, _shared(text, asked) - len(header)), start) if header else -1
        return start if place < 0 else place + len(header)

    def _next_turn(self, text: str, messages: Sequence[Mapping[str, Any]], tools: Any) -> int:
        """Where the next turn begins, as far as the template prints the same of some first messages alone; else the end
        of the text.

        What a template prints of later turns may depend on a message, such as the name of the function that a result is
        of.
        """
        try:
            before = self._template.render(messages, tools).text.text
        except DoesNotFit:  # no template must take a part of a conversation
            return len(text)
        return len(before) if text.startswith(before) else len(text)

    def _with_end(self, rendered: Rendered, end: int) -> int:
        """The end of a turn: behind the tokens that end it, if only white space stands before them.

        No token ends a turn twice.
        """
        text, gone = rendered.text.text, set[str]()
        for start, after in rendered.text.special:
            spelling, between = text[start:after], text[end:start]
            if after <= end:
                continue
            # Two tokens that end turns may have their last letters in common: the second one begins before the end.
            if end <= start and (
                spelling not in self._ends or spelling in gone or (between if gone else between.strip())
            ):
                break
            end = after
            gone.add(spelling)
        return end

    def _after_answers(self) -> set[str]:
        """The special tokens that end an answer, in the last turn and in an earlier one."""
        last, earlier = (
            [rendered.text.text[start:end] for start, end in following]
            for rendered, following in (
                self._template.after_answer(),
                self._template.after_answer({"role": "user", "content": "!"}),
            )
        )
        return {*last, *earlier[: len(last)]}  # what follows them begins the next turn


def _shared(first: str, second: str) -> int:
    """Number of characters that two texts begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
