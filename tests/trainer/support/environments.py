"""Environments of tests: functions that talk with a model."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx

from halcyon.run.policy.environment_process import Conversation, Refused

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def random_words(conversation: Conversation) -> float:
    """Two turns; between them words that no one can compute again."""
    print("what a function prints goes nowhere near the trainer")
    messages: list[Any] = list(conversation.messages)
    messages.append({**conversation.chat(messages), "tool_calls": None, "refusal": None})  # as clients write it
    messages.append({"role": "user", "content": os.urandom(2).hex()})
    try:
        messages.append(conversation.chat(messages))
    except Refused:
        if conversation.arguments.get("strict"):
            raise
    return sum(map(ord, str(messages))) % 97 / 97


def by_reference(conversation: Conversation) -> float:
    """What the reference says."""
    first = conversation.chat(conversation.messages)
    match conversation.reference:
        case "fails":
            raise LookupError("there is no such tool")
        case "waits":
            threading.Event().wait()
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "none":
            return float("nan")
        case "rewrites":
            conversation.chat([{"role": "user", "content": "another"}, first, {"role": "user", "content": "?"}])
        case "long":
            conversation.chat([*conversation.messages, first, {"role": "user", "content": "x" * 99}])
        case "messages":
            conversation.chat("text")  # type: ignore[arg-type]
        case "calls":
            conversation.chat([*conversation.messages, first | {"tool_calls": [1]}, {"role": "user", "content": "?"}])
        case "functions":
            conversation.chat([*conversation.messages, first, {"role": "user", "content": "?"}], [{}])
        case "http":
            return over_http(conversation)
    return 1.0


def asks_with_tools(conversation: Conversation) -> float:
    """Does not use the prompt of the data."""
    asked = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"}]
    return float(conversation.chat(asked, TOOLS)["content"] == "no")


def over_http(conversation: Conversation) -> float:
    """The same by a client of OpenAI's protocol."""
    url, messages = f"{conversation.url}/chat/completions", conversation.messages
    assert httpx.post(url, json={"messages": messages}).status_code == 401
    headers = {"Authorization": f"Bearer {conversation.key}"}
    assert httpx.post(f"{conversation.url}/models", json={"messages": messages}, headers=headers).status_code == 404
    refused = httpx.post(url, json={"messages": messages}, headers=headers)
    return float(refused.status_code == 400 and "begin with the conversation" in refused.json()["error"]["message"])


def same_words(conversation: Conversation) -> float:
    """`random_words` without chance; `mark`: a file that it makes before it kills its process, once."""
    mark = Path(conversation.arguments.get("mark", "/"))
    if not mark.exists():
        conversation.chat(conversation.messages)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    messages: list[Any] = list(conversation.messages)
    messages.append(conversation.chat(messages))
    messages.append({"role": "user", "content": "go"})
    try:
        messages.append(conversation.chat(messages))
    except Refused:
        return 0.0
    return sum(map(ord, str(messages))) % 97 / 97
