"""Lists of messages in a field: messages, turns of ShareGPT, or either as JSON in a text.

A message is an object with `role` and `content`, as templates expect it. Turns of ShareGPT (`from`, `value`) become
messages wherever a list of messages may stand, and the names of speakers that other programs use become the roles that
templates know. All other keys of a message stay as they are.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from halcyon.data.forms.form import BadConversation

Message = dict[str, Any]

_ROLES = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"),
    "system": ("system",),
    "tool": ("tool", "observation"),
}
"""The roles of templates, and the names of speakers that mean them, in small letters."""
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_SHAREGPT_ROLES = _ROLE_OF | {
    "function": "tool",
    "function_response": "tool",
    "function-response": "tool",
    "developer": "developer",
}
"""In turns of ShareGPT more names are known, because any other name is an error there."""
_CALLS = ("function_call", "function-call")
_MESSAGES_AS_JSON = re.compile(r'\s*\[\s*\{\s*"(role|from|content|value)"')


def turns(value: Any, field: str) -> list[Message]:
    """A list of messages, or of turns of ShareGPT, or one of them, or such a list as JSON in a text; as messages.

    Raises:
        BadConversation: It is none of these. A list whose members are no messages is returned as it is, for
            `check_messages`.
    """
    if isinstance(value, str) and value.lstrip().startswith("[") and (value := parsed(value)) is None:
        raise BadConversation(
            f"has a text in the field {field!r} that begins like a list and is not JSON", "write the messages as JSON"
        )
    if isinstance(value, Mapping):
        value = _from_columns(value) or [value]
    if not isinstance(value, list):
        raise BadConversation("is not a list of messages", f"name the field of the messages, which is not {field}")
    return [_message(one, place) for place, one in enumerate(value)]


def _from_columns(columns: Mapping[str, Any]) -> list[Message] | None:
    """The messages of an object of lists, as `datasets` stores a sequence of objects; None: it is no such object."""
    lists = [column for column in columns.values() if isinstance(column, list)]
    if not lists or len(lists) < len(columns) or len({len(column) for column in lists}) != 1:
        return None
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def is_list(value: Any) -> bool:
    """Whether a value is a list, or a list of messages as JSON in a text."""
    return isinstance(value, list) or (isinstance(value, str) and _MESSAGES_AS_JSON.match(value) is not None)


def parsed(text: str) -> Any:
    """The value of JSON; None: the text is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _message(message: Any, place: int) -> Any:
    if not isinstance(message, Mapping):
        return message
    role = message.get("role")
    if role is None and isinstance(message.get("from"), str):
        return _turn(message, place)
    if not isinstance(role, str):
        return message
    known = _ROLE_OF.get(role.strip().casefold()) or ("developer" if role.casefold() == "developer" else role)
    if "content" not in message and "value" in message:
        message = {("content" if name == "value" else name): member for name, member in message.items()}
    return {**message, "role": known}


def _turn(turn: Mapping[str, Any], place: int) -> Message:
    """A turn of ShareGPT as a message."""
    speaker = turn["from"].strip().casefold()
    content = turn["value"] if "value" in turn else turn.get("content")
    more = {name: member for name, member in turn.items() if name not in ("from", "value", "content")}
    if speaker in _CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(content, place), **more}
    role = _SHAREGPT_ROLES.get(speaker)
    if role is None:
        known = ", ".join([*(name for names in _ROLES.values() for name in names), "function_call"])
        raise BadConversation(
            f"has a turn from {turn['from']!r} at place {place}; known are {known}", "rename the speaker"
        )
    return {"role": role, "content": content, **more}


def _calls(content: Any, place: int) -> list[Message]:
    """Calls of tools as OpenAI writes them, from the JSON of a turn `function_call`."""
    value = parsed(content) if isinstance(content, str) else content
    calls = value if isinstance(value, list) else [value]
    calls = [
        call["function"] if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping) else call
        for call in calls
    ]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise BadConversation(f"has a function_call at place {place} that is not JSON with name and arguments")
    return [{"type": "function", "function": dict(call)} for call in calls]
