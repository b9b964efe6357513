"""Checks conversations before a template renders them.

A template renders any list of messages, even one in which a turn is missing; the model would then learn from wrong data
without an error. So every conversation is checked: it has no two user turns in a row, and it has an assistant turn if
only those count in the loss. Halcyon's own template requires more: an optional system message, then alternating user
and assistant turns, as in nanochat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halcyon.data.forms.bad_conversation import BadConversation

ASSISTANT_PARTS = ("text", "python", "python_output")
"""Parts of an assistant's message: its text, the code it runs, and the output of the code, which never counts in the
loss.
"""


def check_messages(messages: object, *, needs_assistant: bool) -> list[dict[str, Any]]:
    """Check messages for any template, and return them. ``needs_assistant``: at least one assistant turn is required.

    Raises:
        BadConversation: They are not valid.
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
                f"has two user turns in a row at places {place - 1} and {place}",
                "join them, or add the answer between them",
            )
        before = role
    if messages and needs_assistant and not any(message["role"] == "assistant" for message in messages):
        raise BadConversation(
            "has no assistant turn, so nothing in it would be learnt", "leave the row out, or set lossOn: all"
        )
    return messages


def check_turns(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check messages for Halcyon's own template: an optional system message, then alternating user and assistant turns.

    Raises:
        BadConversation: They are not valid.
    """
    system = 1 if messages and messages[0]["role"] == "system" else 0
    if messages and len(messages) == system:
        raise BadConversation("has only a system message")
    for place, message in enumerate(messages):
        expected = "system" if place < system else ("user", "assistant")[(place - system) % 2]
        role = message["role"]
        if role != expected:
            raise BadConversation(
                f"has the role {role!r} at place {place} where {expected!r} is expected",
                "fix the row, or give a template for it",
            )
        content = message.get("content")
        if not isinstance(content, str) and not (role == "assistant" and _are_parts(content)):
            raise BadConversation(
                f"has content at place {place} that is not a text"
                + (f" and not a list of {', '.join(ASSISTANT_PARTS)} parts" * (role == "assistant"))
            )


def _are_parts(content: object) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") in ASSISTANT_PARTS and isinstance(part.get("text"), str)
        for part in content
    )
