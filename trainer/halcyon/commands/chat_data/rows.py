"""Conversations as rows of JSON Lines files. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

Turn = tuple[str, str]
"""A question and its answer."""


def row(turns: Sequence[Turn]) -> str:
    """One line: the messages of a conversation, with the user's first."""
    messages = [
        message
        for question, answer in turns
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def lines(rows: Iterable[str]) -> bytes:
    """The content of a file with these lines."""
    return "".join(f"{one}\n" for one in rows).encode()
