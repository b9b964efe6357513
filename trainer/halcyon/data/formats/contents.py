"""Fits the contents of messages to a template: texts, or lists of parts (``{"type": "text", "text": ...}``).

Many templates print `message['content']`, and print a list as Python writes it: the model would learn brackets and
quotes. Other templates go through the parts and fail on a text. So a template is tried once with a list for each role,
and a list of texts becomes one text where the template cannot take it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from halcyon.data.formats.conversation import ASSISTANT_PARTS
from halcyon.data.forms.bad_conversation import BadConversation
from halcyon.host.budgets.apart import OverBudget

_MARK = "halcyon"
_NO_CONTENT = frozenset({"role", "content", "name", "weight"})
"""Keys of a message that cannot stand in place of its content; a call of a tool, or a key of the template's own, can.
"""


class Contents:
    """The contents that a template takes.

    Args:
        render: Renders messages to text; may raise anything.
    """

    def __init__(self, render: Callable[[list[dict[str, Any]]], str]) -> None:
        self._wants_text = {role for role in ("system", "user", "assistant", "tool") if _wants_text(render, role)}

    def fit(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages as the template takes them.

        Raises:
            BadConversation: The content of a message is missing or a number, or has parts that are no texts.
        """
        return [self._message(message, place) for place, message in enumerate(messages)]

    def _message(self, message: Mapping[str, Any], place: int) -> dict[str, Any]:
        content = message.get("content")
        if content is None:
            if not any(value for key, value in message.items() if key not in _NO_CONTENT):
                raise BadConversation(f"has no content in the message at place {place}")
        elif isinstance(content, list):
            if message["role"] in self._wants_text and not _is_code(content):
                return {**message, "content": joined_texts(content, place)}
        elif isinstance(content, bool | int | float):
            kind = "a truth value" if isinstance(content, bool) else "a number"
            raise BadConversation(f"does not fit the template: the content at place {place} is {kind}, not a text")
        return dict(message)


def _is_code(parts: Sequence[Any]) -> bool:
    """Whether parts are those of an assistant that runs code; a template of such data knows them."""
    kinds = {part.get("type") for part in parts if isinstance(part, Mapping)}
    return all(isinstance(part, Mapping) for part in parts) and {"text"} < kinds | {"text"} <= set(ASSISTANT_PARTS)


def has_parts(message: Mapping[str, Any]) -> bool:
    """Whether the content of a message is a list of objects."""
    content = message.get("content")
    return isinstance(content, list) and all(isinstance(part, Mapping) for part in content)


def joined_texts(parts: Sequence[Any], place: int) -> str:
    """The texts of parts as one text.

    Raises:
        BadConversation: A part is no text.
    """
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
        if not isinstance(text, str):
            name = f"of type {part.get('type')!r}" if isinstance(part, Mapping) else "that is no object"
            raise BadConversation(
                f"has a part {name} in the content at place {place}, and the template takes texts only",
                "leave the row out, or give a template",
            )
        texts.append(text)
    return "".join(texts)


def _wants_text(render: Callable[[list[dict[str, Any]]], str], role: str) -> bool:
    """Whether a template takes a text of a role, and not a list of parts."""
    before = {
        "assistant": [{"role": "user", "content": _MARK}],
        "tool": [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}],
    }
    after = [{"role": "user", "content": _MARK}] if role == "system" else []

    def takes(content: Any) -> bool:
        try:
            text = render([*before.get(role, []), {"role": role, "content": content}, *after])
        except OverBudget:
            raise
        except Exception:  # a template is user code, which may raise anything
            return False
        return "'text'" not in text and '"text"' not in text

    return takes(_MARK) and not takes([{"type": "text", "text": _MARK}])
