"""SmolTalk: conversations (Ben Allal et al. 2025), as published on the hub (Parquet) or as JSON lines. The last
answer is scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from halcyon.evals.example import GivenReply, Message, Prompt
from halcyon.evals.rows import Row


def examples(rows: Iterable[Row]) -> Iterator[GivenReply]:
    """The examples of a file: ``messages`` with ``role`` and ``content``; a system message may come first."""
    for row in rows:
        messages = _checked(row)
        before = messages[:-1]
        plain = "\n\n".join(str(message["content"]) for message in before) + "\n\n"
        yield GivenReply(row.place, Prompt(before, plain), str(messages[-1]["content"]))


def _checked(row: Row) -> tuple[Message, ...]:
    given: Any = row.get("messages")
    if not isinstance(given, list) or not all(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in given
    ):
        row.bad("the field messages is no list of objects with role and content")
    system = 1 if given and given[0].get("role") == "system" else 0
    roles = [one.get("role") for one in given[system:]]
    if len(roles) < 2 or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        row.bad("after a system message, user and assistant must take turns, and the assistant must have the last one")
    if not given[-1]["content"]:
        row.bad("the last answer is empty")
    return tuple({"role": one["role"], "content": one["content"]} for one in given)
