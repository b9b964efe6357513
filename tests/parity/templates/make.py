"""Writes the goldens: what transformers makes of the templates, conversations and texts with each tokenizer.

It runs in the environment of `make parity`, which calls it with ``--check``:

    ~/.cache/halcyon/transformers-…/bin/python -m tests.parity.templates.make

The mask of `apply_chat_template` asks for the token of the first and of the last character of each span of the
assistant. So it is not the mask of all tokens that share a character with a span, where

- the first character has no token: it counts nothing of this span, nor of all later ones;
- the last character has no token, or the very first one: it counts everything to the end of the conversation;
- the last character has several tokens: it counts only the first of them.

Such a golden has both masks.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import tokenizers
import transformers
from transformers.utils import chat_template_utils

from tests.parity.templates.cases import CONVERSATIONS, DATE, DIFFERENCES, TEMPLATES, TEXTS
from tests.parity.templates.goldens import OTHERS, REASONS, names, read, stretches, write
from tests.parity.templates.kinds import KINDS, SETTINGS, Kind


class FixedDay(dt.datetime):
    """The day that templates print."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> FixedDay:
        """The beginning of the day."""
        return cls.fromisoformat(DATE)


def loaded(kind: Kind) -> Any:
    """The tokenizer as transformers loads its folder."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in kind.files.items():
            (Path(folder) / name).write_bytes(data)
        return transformers.AutoTokenizer.from_pretrained(folder)


def case(tokenizer: Any, plain: tokenizers.Tokenizer, template: str, conversation: dict[str, Any]) -> dict[str, Any]:
    """The golden of a conversation.

    ``plain``: the tokenizer without its post-processor, which may cut white space off the offsets.
    """
    messages, tools = with_objects(conversation["messages"]), conversation.get("tools")
    given = {"tools": tools, "chat_template": template}
    try:
        found = tokenizer.apply_chat_template(messages, **given, return_assistant_tokens_mask=True, return_dict=True)
        prompt = tokenizer.apply_chat_template(messages[:-1], **given, add_generation_prompt=True, return_dict=True)
    except Exception as error:  # templates raise what they like
        return {"error": f"{type(error).__name__}: {error}"}
    mask = found["assistant_masks"]
    texts, spans = chat_template_utils.render_jinja_template(
        [[{key: value for key, value in message.items() if value is not None} for message in messages]],
        **given,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    encoding = plain.encode(texts[0], add_special_tokens=False)
    assert encoding.ids == found["input_ids"]
    exact = [any(start < last and first < end for first, last in spans[0]) for start, end in encoding.offsets]
    golden: dict[str, Any] = {"ids": found["input_ids"], "counted": stretches(mask), "prompt": prompt["input_ids"]}
    if stretches(exact) != golden["counted"]:
        golden |= {"exact": stretches(exact), "why": sorted(reasons(found, spans[0]))}
    return golden


def with_objects(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls have their arguments as objects, as transformers expects them."""
    messages = copy.deepcopy(messages)
    for call in (call for message in messages for call in message.get("tool_calls") or ()):
        if isinstance(arguments := call["function"]["arguments"], str):
            call["function"]["arguments"] = json.loads(arguments)
    return messages


def reasons(found: Any, spans: Iterable[tuple[int, int]]) -> set[str]:
    """Why a mask differs from the tokens that share a character with a span."""
    reasons: set[str] = set()
    for start, end in spans:
        if start < end:
            if found.char_to_token(0, start) is None:
                reasons.add(REASONS[0])
                break
            last = found.char_to_token(0, end - 1)
            reasons.add(REASONS[2] if last else REASONS[1])
    return reasons


def goldens(kind: Kind) -> dict[str, Any]:
    """The goldens of a tokenizer."""
    tokenizer = loaded(kind)
    plain = copy.deepcopy(tokenizer.backend_tokenizer)
    plain.post_processor = tokenizers.processors.Sequence([])
    return {
        "texts": {name: tokenizer(text)["input_ids"] for name, text in TEXTS.items()},
        "cases": {
            template: {
                name: case(tokenizer, plain, source, conversation) for name, conversation in CONVERSATIONS.items()
            }
            for template, source in TEMPLATES.items()
        },
    }


def others() -> dict[str, Any]:
    """The versions, the ids of the first text with other settings, and the differences."""
    settings: dict[str, Any] = {}
    for name, (base, changes) in SETTINGS.items():
        kind = KINDS[base]()
        changed = Kind(kind.document, kind.settings | changes, kind.about)
        settings[name] = loaded(changed)(next(iter(TEXTS.values())))["input_ids"]
    differences: dict[str, Any] = {}
    for name, (base, template, _) in DIFFERENCES.items():
        messages, tokenizer = DIFFERENCES[name].messages, loaded(KINDS[base]())
        given = {"chat_template": template, "return_dict": True}
        found = tokenizer.apply_chat_template(messages, **given, return_assistant_tokens_mask=True)
        clean = tokenizer.apply_chat_template(messages, **given, sanitize_control_tokens=True)["input_ids"]
        differences[name] = {"ids": found["input_ids"], "mask": found["assistant_masks"]}
        differences[name] |= {} if clean == found["input_ids"] else {"sanitized": clean}
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    return {"versions": versions, "settings": settings, "differences": differences}


def lines(document: dict[str, dict[str, Any]]) -> str:
    """A document as JSON, with a line for each entry."""
    parts = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        + "\n }"
        for name, entries in document.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    """Write the goldens, or compare them."""
    transformers.logging.set_verbosity_error()
    compared: Counter[str] = Counter()
    with mock.patch.object(chat_template_utils, "datetime", FixedDay):
        for name, make in KINDS.items():
            found = goldens(make())
            if "--check" not in sys.argv:
                write(name, found)
            elif (expected := read(name)) != json.loads(json.dumps(found)):
                wrong = [
                    f"{template} with {conversation}"
                    for template, cases in found["cases"].items()
                    for conversation, golden in cases.items()
                    if expected["cases"].get(template, {}).get(conversation) != golden
                ]
                sys.exit(f"{name}: the golden is not what transformers gives for {', '.join(wrong) or 'texts'}")
            compared.update(cases=sum(map(len, found["cases"].values())), texts=len(found["texts"]))
    if "--check" not in sys.argv:
        OTHERS.write_text(lines(others()))
    elif json.loads(OTHERS.read_text()) != others():
        sys.exit(f"{OTHERS} is not what transformers gives")
    assert names() == sorted(KINDS)
    print(f"{compared['cases']} conversations and {compared['texts']} texts have the tokens that transformers gives")
    return 0


if __name__ == "__main__":
    sys.exit(main())
