"""Examples of tasks: what a model is asked, and what decides whether its answer is right. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]
"""``role`` and ``content``. An assistant's content may be a list of parts with ``type`` (text, python, python_output) and ``text``."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Attributes:
        messages: The conversation, for a model with a chat template.
        plain: The same as text that the answer continues, for a model without one.
        stop: Strings before which a continuation of `plain` ends.
    """

    messages: tuple[Message, ...]
    plain: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A question with given answers, one of which is right. The model chooses the most likely one.

    Attributes:
        name: Where it comes from, such as ``test.jsonl line 3``.
        prompt: What the model is asked.
        answers: The given answers, such as letters.
        gold: The place of the right one.
        group: Part of the task that it belongs to, such as a subject. None: the task has no parts.
    """

    name: str
    prompt: Prompt
    answers: tuple[str, ...]
    gold: int
    group: str | None = None


@dataclass(frozen=True)
class Question:
    """A question that the model answers with a text.

    Attributes:
        name: See `Choice`.
        prompt: What the model is asked.
        reference: What the answer is compared with.
        solution: A right answer as the parts of an assistant's message, for finetuning.
        facts: What else decides whether an answer is right, by name.
    """

    name: str
    prompt: Prompt
    reference: str
    solution: tuple[Message, ...]
    facts: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Reply:
    """An answer that is given. The model says how likely it is.

    Attributes:
        name: See `Choice`.
        prompt: The conversation before it.
        answer: The answer.
    """

    name: str
    prompt: Prompt
    answer: str


Example = Choice | Question | Reply


def conversation(example: Example) -> list[Message]:
    """The example with its right answer, as a conversation to finetune on."""
    match example:
        case Choice():
            content: Any = example.answers[example.gold]
        case Question():
            content = list(example.solution)
        case Reply():
            content = example.answer
    return [*example.prompt.messages, {"role": "assistant", "content": content}]
