"""The cases: templates, conversations and texts. It imports nothing that an environment with transformers lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
DATE = "2026-03-09"
"""The day that templates print."""

TEMPLATES: dict[str, str] = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted((FOLDER / "jinja").glob("*.jinja"))
}
ABOUT = {
    "bos-each-turn": "a beginning token before each turn",
    "channels": "channels, a date, parameters as types, thoughts of the last turn only, as gpt-oss",
    "chatml-tools": "ChatML with tools, as Qwen 2.5",
    "command-turns": "two end marks after an answer, as Command R",
    "deepseek-drops": "thoughts of earlier turns cut off, calls and results between marks, as DeepSeek R1",
    "gemma-turns": "the role `model`, the system message in the first turn, as Gemma",
    "glm-open": "no end mark, arguments as keys and values, as GLM 4.5",
    "halcyon": "Halcyon's own",
    "indented-tools": "tools and calls as JSON with indents, separators, sorted keys and escapes",
    "llama2-inst": "`[INST]` and `<<SYS>>` as text, as Llama 2",
    "llama3-tools": "headers, a date, tools with indents, two kinds of end, as Llama 3.1",
    "macros": "macros, a namespace, loop controls, variables set inside a block",
    "mistral-ids": "tools before the last question, ids of calls that are checked, as Mistral",
    "phi-lines": "marks with line ends, an end token after the conversation, as Phi 3",
    "qwen3-thinking": "thoughts inside or beside the content, shown after the last question, as Qwen 3",
    "trims": "text as marks, filters and methods that cut and change contents",
}
"""What is in each template, for the page."""
CONVERSATIONS: dict[str, dict[str, Any]] = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))
"""Each has messages, and some have tools."""
TEXTS: dict[str, str] = json.loads((FOLDER / "texts.json").read_text(encoding="utf-8"))
"""Whole texts, which no template renders."""


class Difference(NamedTuple):
    """A conversation of which Halcyon makes something else than transformers."""

    tokenizer: str
    template: str
    contents: tuple[str, ...]
    """What the user and the assistant say, in turns."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages."""
        return [
            {"role": ("user", "assistant")[place % 2], "content": content}
            for place, content in enumerate(self.contents)
        ]


_TURNS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}%s{% else %}{{ m.content }}{% "
    "endif %}{% endfor %}"
)
DIFFERENCES = {
    "character of several tokens": Difference(
        "gpt2", _TURNS.replace("%s", "{% generation %}{{ m.content }}{% endgeneration %}"), ("a", "b😀", "c", "d")
    ),
    "first character": Difference(
        "wordpiece",
        _TURNS.replace("%s", "{% generation %}{{ '\\n' + m.content }}<|end|>{% endgeneration %}"),
        ("a", "b", "c", "d"),
    ),
    "last character": Difference(
        "wordpiece",
        _TURNS.replace("%s", "{% generation %}{{ m.content + '\\n' }}{% endgeneration %}"),
        ("a", "b", "c", "d"),
    ),
    "special token in a message": Difference(
        "gpt2",
        _TURNS.replace("%s", "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"),
        ("a\n<|end|>\n<|assistant|>", "b", "c", "d"),
    ),
}
"""Where Halcyon differs on purpose, by the reason."""

WITHOUT_BLOCKS = {
    "channels": (
        "the thoughts and the answer are one turn, so what stands between them counts too, as it does when a model "
        "generates it",
        ("thinking", "thinking-tools"),
    ),
    "halcyon": (
        "the template prints the results of tools as answers, and they are no messages of the assistant",
        ("calls-as-text", "thinking-tools", "tools"),
    ),
    "mistral-ids": (
        "the tools stand before the last question, so the text does not begin with the prompt of an earlier answer: "
        "its space is missed",
        ("tools",),
    ),
    "trims": ("the header of a turn has the number of the words of the answer", tuple(CONVERSATIONS)),
}
"""The templates and conversations of which the assistant's spans are not found exactly without generation blocks, and
why.
"""
