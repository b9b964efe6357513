"""Makes the messages of a row, by the form of its source."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from halcyon.data.forms.form import BadConversation, BadValue, Form, Part, kind_of, truth_of
from halcyon.data.forms.turns import Message, is_list, parsed, turns

_SPOKEN = re.compile(r"\n\n(Human|Assistant): ?")
"""What begins a turn in the texts of Anthropic's hh-rlhf."""


class Conversation(NamedTuple):
    """A conversation of a row. No messages: the row is empty or is left out."""

    messages: list[Message]
    tools: Any = None


class Pair(NamedTuple):
    """A preferred and a rejected conversation."""

    chosen: list[Message]
    rejected: list[Message]
    tools: Any = None


class Prompt(NamedTuple):
    """A prompt and the reference for its answer. No messages: the row is empty or is left out."""

    messages: list[Message]
    reference: Any = None
    """A value of any kind; None: the last message of the assistant is the reference, or there is none."""
    has_reference: bool = False
    tools: Any = None


def conversation_of(form: Form, row: Mapping[str, Any], named_tools: str | None = None) -> Conversation:
    """The conversation of a row.

    Args:
        form: The form of the source.
        row: The fields of the row.
        named_tools: The field of the tools, if the document names it: a text in it stays a text.

    Raises:
        BadConversation: The row does not have this form.
    """
    if is_rejected(form, row):
        return Conversation([])
    parts = _Parts(form, row)
    messages = parts.asked()
    if "answer" in form.fields:
        answer = parts.answer("answer")
        if not _has_content(answer):
            return Conversation([])
        messages = [*messages, *answer]
    return Conversation(parts.with_system(messages), parts.tools(named_tools))


def pair_of(form: Form, row: Mapping[str, Any]) -> Pair:
    """The two conversations of a row; both are empty if the row is empty.

    Raises:
        BadConversation: The row does not have this form.
    """
    parts = _Parts(form, row)
    request = parts.get("request")
    if isinstance(request, Mapping):
        asked, tools = turns(request.get("messages"), form.fields["request"]), request.get("tools")
    elif request is not None:
        raise BadConversation(
            f"has {kind_of(request)} in the field {form.fields['request']!r}, not an object with messages"
        )
    else:
        asked, tools = None, parts.tools()
    chosen, rejected = parts.answer("chosen"), parts.answer("rejected")
    if not _has_content(chosen) and not _has_content(rejected):
        return Pair([], [])
    chosen, rejected = parts.joined(asked, "chosen", chosen), parts.joined(asked, "rejected", rejected)
    return Pair(parts.with_system(chosen), parts.with_system(rejected), tools)


def prompt_of(form: Form, row: Mapping[str, Any]) -> Prompt:
    """The prompt of a row, and the reference if a field holds it.

    Raises:
        BadConversation: The row does not have this form.
    """
    if is_rejected(form, row):
        return Prompt([])
    parts = _Parts(form, row)
    text = parts.get("messages")
    if text is not None and not isinstance(text, str) and not is_list(text):
        raise BadConversation(
            f"has {kind_of(text)} in the field {form.fields['messages']}", "give a text, or a list of messages"
        )
    if isinstance(text, str) and not is_list(text):
        asked: list[Message] = [{"role": "user", "content": text}] if text else []
    else:
        asked = parts.asked()
    messages = parts.with_system(asked)
    has_reference = "answer" in form.fields
    reference = parts.get("answer") if has_reference else None
    if (
        has_reference
        and isinstance(reference, list)
        and (answer := turns(reference, form.fields["answer"]))
        and _are_messages(answer)
    ):
        reference = answer[-1].get("content")
    return Prompt(messages, reference, has_reference, parts.tools())


def is_rejected(form: Form, row: Mapping[str, Any]) -> bool:
    """Whether the label of a row says that its answer is a bad one.

    Raises:
        BadConversation: The row has a label that is no truth value.
    """
    if "label" not in form.fields:
        return False
    value = _Parts(form, row).get("label")
    good = truth_of(value)
    if good is None:
        raise BadConversation(
            f"has {kind_of(value)} in the field {form.fields['label']!r}, which is the label of an answer in the first "
            "row",
            "give true or false, or another name to a field that is no label",
        )
    return not good


class _Parts:
    """Reads the parts of a row by the form of its source."""

    def __init__(self, form: Form, row: Mapping[str, Any]) -> None:
        self._form, self._fields = form, form.fields
        self._row = row

    def asked(self) -> list[Message]:
        """The messages before the answer."""
        if "messages" in self._fields:
            return turns(self.get("messages"), self._fields["messages"])
        if "question" not in self._fields:
            return []
        question, more = self.get("question"), self.get("input")
        if is_list(question):
            asked = turns(question, self._fields["question"])
            if more:
                raise BadConversation(
                    f"has messages in the field {self._fields['question']!r} and a text in {self._fields['input']!r}",
                    "join them",
                )
        else:
            # As LLaMA-Factory joins them: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
            texts = self.text(question, "question"), "" if more is None else self.text(more, "input")
            text = "\n".join(part for part in texts if part)
            asked = [{"role": "user", "content": text}] if text else []
        return [*self.history(), *asked]

    def history(self) -> list[Message]:
        """Earlier questions and answers: a list of pairs of texts."""
        history = self.get("history")
        if not history:
            return []
        pairs = parsed(history) if isinstance(history, str) else history
        if not isinstance(pairs, list) or not all(
            isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
            for pair in pairs
        ):
            raise BadConversation(
                f"has {kind_of(history)} in the field {self._fields['history']!r} that is no list of pairs of texts"
            )
        return [
            message
            for asked, said in pairs
            for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
        ]

    def answer(self, part: Part) -> list[Message]:
        """The answer in a field, as messages: a text is a message of the assistant."""
        value = self.get(part)
        if isinstance(value, Mapping) or is_list(value):
            return turns(value, self._fields[part])
        if not isinstance(value, str):
            raise BadConversation(
                f"has {kind_of(value)} in the field {self._fields[part]!r}, not a text or messages", part=part
            )
        if part != "answer" and _SPOKEN.match(value):
            _, *spoken = _SPOKEN.split(value)
            roles = {"Human": "user", "Assistant": "assistant"}
            return [
                {"role": roles[name], "content": text} for name, text in zip(spoken[::2], spoken[1::2], strict=True)
            ]
        return [{"role": "assistant", "content": value}]

    def joined(self, asked: list[Message] | None, part: Part, answer: list[Message]) -> list[Message]:
        """The conversation of one answer of a pair. An answer that begins with a question is the whole conversation."""
        first = answer[0].get("role") if answer and isinstance(answer[0], Mapping) else None
        whole = bool(answer) and first not in ("assistant", "tool")
        before = self.asked() if asked is None else asked
        if not whole:
            if not before and not isinstance(self._row[self._fields[part]], list):
                raise BadConversation(
                    f"has an answer in the field {self._fields[part]!r} and no question",
                    "add the field prompt, or write whole conversations",
                    part,
                )
            return [*before, *answer]
        if "question" in self._fields and before and not _contains(answer, before):
            raise BadConversation(
                f"has a conversation in the field {self._fields[part]!r} that does not contain "
                f"{self._fields['question']!r}",
                "leave the prompt out, or write the answer alone",
                part,
            )
        return answer

    def with_system(self, messages: list[Message]) -> list[Message]:
        system = self.get("system")
        if (
            not system
            or not messages
            or (isinstance(messages[0], Mapping) and messages[0].get("role") in ("system", "developer"))
        ):
            return messages
        return [{"role": "system", "content": self.text(system, "system")}, *messages]

    def tools(self, named: str | None = None) -> Any:
        """The tools of a row. A list as JSON in a text is parsed, because templates go through the tools one by one."""
        tools = self.get("tools")
        if named is not None or not isinstance(tools, str):
            return tools
        if not tools.strip():
            return None
        if (found := parsed(tools)) is None:
            fix = "write the tools as a list, or name the field in toolsField"
            raise BadConversation(f"has a text in the field {self._fields['tools']!r} that is not JSON", fix)
        return found

    def get(self, part: Part) -> Any:
        """The value of a part; None: the form does not have it, or it is null, or an optional field is absent."""
        field = self._fields.get(part)
        if field is None:
            return None
        if field not in self._row:
            if part in ("input", "history", "system", "tools"):
                return None
            there = ", ".join(list(self._row)[:20])
            raise BadConversation(
                f"has no field {field!r}" + (f", only {there}" if there else ""),
                f"the form of the source is {self._form}; name the field, fix the row, or put rows of another form "
                "into a source of their own",
                part,
            )
        value = self._row[field]
        if isinstance(value, BadValue):
            raise BadConversation(f"{value.problem} in the field {field!r}", value.fix, part)
        return value

    def text(self, value: Any, part: Part) -> str:
        if not isinstance(value, str):
            more = " or messages" if part == "question" else ""
            raise BadConversation(
                f"has {kind_of(value)} in the field {self._fields[part]!r}, not a text{more}", part=part
            )
        return value


def _contains(conversation: Sequence[Any], asked: Sequence[Message]) -> bool:
    """Whether each message of a prompt is in a conversation, blanks at their ends aside."""
    said = {_stripped(message) for message in conversation}
    return all(_stripped(message) in said for message in asked)


def _stripped(message: Any) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content.strip() if isinstance(content, str) else repr(content)


def _has_content(messages: Sequence[Any]) -> bool:
    """Whether a list of messages is more than one empty text."""
    return any(
        not isinstance(message, Mapping) or message.get("content") or message.get("tool_calls") for message in messages
    )


def _are_messages(messages: Sequence[Any]) -> bool:
    return all(isinstance(message, Mapping) and "role" in message for message in messages)
