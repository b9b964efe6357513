"""Checks conversations before a template renders them, and fits the contents of their messages to it.

A template renders any list of messages, even one in which a turn is missing; the model would then learn from wrong data
without an error. So every conversation has an assistant turn if only those count in the loss. Two user turns in a row
are a matter of the template: it raises an error, or prints them. Halcyon's own template requires an optional system
message, then alternating user and assistant turns, as in nanochat.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from halcyon.data.forms.form import BadConversation

ASSISTANT_PARTS = ("text", "python", "python_output")
"""Parts of an assistant's message: its text, the code it runs, and the output of the code, which never counts in the
loss.
"""

IMAGES = ("image", "image_url")
"""Types of parts of messages that are images."""
_VIDEOS = ("video", "video_url")

_MARK = "halcyon"
_LEARNT = ("weight", "train", "training", "trainable", "loss_mask")
"""Keys of an answer, of which one that is 0 or false says that it must not be learnt: that of OpenAI and Mistral, and
those of axolotl and verl.
"""
_NO_CONTENT = frozenset({"role", "content", "name", *_LEARNT})
"""Keys of a message that cannot stand in place of its content; a call of a tool, or a key of the template's own, can.
"""


def check_messages(messages: object, *, needs_assistant: bool, alternate: bool, images: bool = False) -> None:
    """Check messages for any template.

    Args:
        messages: The messages.
        needs_assistant: Whether at least one assistant turn is required.
        alternate: Whether two user turns in a row are refused.
        images: Whether messages may have images.

    Raises:
        BadConversation: They are not valid.
    """
    if not isinstance(messages, list):
        raise BadConversation("is not a list of messages", "name the field of the messages")
    refuse_videos(messages)
    if not images and (place := next(image_places(messages), None)) is not None:
        raise BadConversation(
            f"has an image at place {place}, and the model sees none", "leave the row out, or set spec.model.vision"
        )
    before: str | None = None
    for place, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str):
            raise BadConversation(f"has a message without a role at place {place}")
        if alternate and role == before == "user":
            raise BadConversation(
                f"has two user turns in a row at places {place - 1} and {place}",
                "join them, add the answer between them, or give a template that takes them",
            )
        before = role
    if messages and needs_assistant and not any(map(is_learnt, messages)):
        raise BadConversation(
            "has no assistant turn, so nothing in it would be learnt", "leave the row out, or set lossOn: all"
        )


def refuse_videos(messages: Iterable[Any]) -> None:
    """Refuse messages with a video, of which a template would print a token that no model here has frames for.

    Raises:
        BadConversation: There is one.
    """
    if (place := next(image_places(messages, _VIDEOS), None)) is not None:
        raise BadConversation(f"has a video at place {place}, which no model sees", "leave it out, or give images")


def image_places(messages: Iterable[Any], types: Sequence[str] = IMAGES) -> Iterator[int]:
    """The places of the messages with images, or with parts of other types, once for each."""
    for place, message in enumerate(messages):
        parts: Any = message.get("content") if isinstance(message, Mapping) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, Mapping) and part.get("type") in types:
                yield place


def is_learnt(message: Mapping[str, Any]) -> bool:
    """Whether a message is an answer that counts in the loss."""
    return message["role"] == "assistant" and all(message.get(key) is None or message[key] for key in _LEARNT)


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


def text_roles(render: Callable[[list[dict[str, Any]]], str]) -> frozenset[str]:
    """The roles whose contents a template takes only as a text, and not as a list of parts (``{"type": "text", "text":
    ...}``).

    Many templates print `message['content']`, and print a list as Python writes it: the model would learn brackets and
    quotes. Other templates go through the parts and fail on a text. So a template is tried once with a list for each
    role, and a list of texts becomes one text where the template cannot take it.

    Args:
        render: Renders messages to text; may raise `BadConversation`.
    """
    return frozenset(role for role in ("system", "user", "assistant", "tool") if _wants_text(render, role))


def fitted(message: Mapping[str, Any], place: int, roles: Collection[str]) -> dict[str, Any]:
    """A message as a template takes it.

    Args:
        message: The message.
        place: Its place, for errors.
        roles: See `text_roles`.

    Raises:
        BadConversation: The content is missing or a number, or has parts that are no texts.
    """
    content = message.get("content")
    if content is None:
        if not any(value for key, value in message.items() if key not in _NO_CONTENT):
            raise BadConversation(f"has no content in the message at place {place}")
    elif isinstance(content, list):
        if message["role"] in roles and not _is_code(content):
            return {**message, "content": _joined_texts(content, place)}
    elif isinstance(content, bool | int | float):
        kind = "a truth value" if isinstance(content, bool) else "a number"
        raise BadConversation(f"does not fit the template: the content at place {place} is {kind}, not a text")
    return dict(message)


def _is_code(parts: Sequence[Any]) -> bool:
    """Whether parts are those of an assistant that runs code; a template of such data knows them."""
    kinds = {part.get("type") for part in parts if isinstance(part, Mapping)}
    return all(isinstance(part, Mapping) for part in parts) and {"text"} < kinds | {"text"} <= set(ASSISTANT_PARTS)


def _has_parts(message: Mapping[str, Any]) -> bool:
    """Whether the content of a message is a list of objects."""
    content = message.get("content")
    return isinstance(content, list) and all(isinstance(part, Mapping) for part in content)


def _joined_texts(parts: Sequence[Any], place: int) -> str:
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
        except BadConversation:
            return False
        return "'text'" not in text and '"text"' not in text

    return takes(_MARK) and not takes([{"type": "text", "text": _MARK}])


def own_contents(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as Halcyon's own template takes them: the developer is the system, and only the assistant's content may
    have parts.

    Raises:
        BadConversation: The content of another message has a part that is no text.
    """
    messages = [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]
    return [
        {**message, "content": _joined_texts(message["content"], place)}
        if message["role"] != "assistant" and _has_parts(message)
        else message
        for place, message in enumerate(messages)
    ]
