"""What a conversation must be before a template sees it.

A template renders anything, also a list of messages in which a turn is missing; the model would then learn something wrong unnoticed. So
every conversation is checked: never two user turns in a row, and an assistant turn where only those count. Halcyon's own template wants
more: perhaps a system message, then user and assistant in turns, as nanochat has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ASSISTANT_PARTS = ("text", "python", "python_output")
"""Parts of an assistant's message: what it says, what it runs, and what comes back (which it does not say, so it never counts)."""


class BadConversation(Exception):
    """A list of messages is no conversation. The message says why, `fix` what to do."""

    def __init__(self, what: str, fix: str = "fix the row") -> None:
        super().__init__(what)
        self.fix = fix


def check_messages(messages: object, *, needs_assistant: bool) -> list[dict[str, Any]]:
    """Messages that any template may be given.

    Raises:
        BadConversation: They are not.
    """
    if not isinstance(messages, list):
        raise BadConversation("is not a list of messages", "name the field of the messages")
    before: str | None = None
    for place, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str):
            raise BadConversation(f"has a message without a role at place {place}")
        if role == before == "user":
            raise BadConversation(
                f"has two user turns in a row at places {place - 1} and {place}", "join them, or add the answer between them"
            )
        before = role
    if messages and needs_assistant and not any(message["role"] == "assistant" for message in messages):
        raise BadConversation("has no assistant turn, so nothing in it would be learnt", "leave the row out, or set lossOn: all")
    return messages


def check_turns(messages: Sequence[Mapping[str, Any]]) -> None:
    """Perhaps a system message, then user and assistant in turns: what Halcyon's own template renders.

    Raises:
        BadConversation: They are not.
    """
    system = 1 if messages and messages[0]["role"] == "system" else 0
    if messages and len(messages) == system:
        raise BadConversation("has nothing but a system message")
    for place, message in enumerate(messages):
        expected = "system" if place < system else ("user", "assistant")[(place - system) % 2]
        role = message["role"]
        if role != expected:
            raise BadConversation(
                f"has {role!r} at place {place} where {expected!r} has its turn", "fix the row, or give a template for it"
            )
        content = message.get("content")
        if not isinstance(content, str) and not (role == "assistant" and _are_parts(content)):
            raise BadConversation(
                f"has a content at place {place} that is no text"
                + (f" and no list of {', '.join(ASSISTANT_PARTS)} parts" * (role == "assistant"))
            )


def _are_parts(content: object) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") in ASSISTANT_PARTS and isinstance(part.get("text"), str) for part in content
    )
