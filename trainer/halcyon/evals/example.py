"""Examples of benchmarks: what a model is asked, and what decides whether its answer is right. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]
"""``role`` and ``content``.

An assistant's content may be a list of parts with ``type`` (text, python, python_output) and ``text``.
"""


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
class MultipleChoice:
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
class OpenQuestion:
    """A question that the model answers with a text.

    Attributes:
        name: See `MultipleChoice`.
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
class GivenReply:
    """An answer that is given. The model says how likely it is.

    Attributes:
        name: See `MultipleChoice`.
        prompt: The conversation before it.
        answer: The answer.
    """

    name: str
    prompt: Prompt
    answer: str


CoreKind = Literal["multiple_choice", "schema", "language_modeling"]
"""See `halcyon.evals.core_bundle`."""


@dataclass(frozen=True)
class CoreExample:
    """A question of CORE with its texts.

    Attributes:
        name: The file and line.
        kind: The kind of its task.
        texts: Of a choice: the whole text of each. Of ``language_modeling``: the text without and with the
            continuation.
        gold: The place of the right text; 0 for ``language_modeling``.
    """

    name: str
    kind: CoreKind
    texts: tuple[str, ...]
    gold: int


Example = MultipleChoice | OpenQuestion | GivenReply | CoreExample


def letter_choice(
    name: str, question: str, letters: Sequence[str], choices: Sequence[str], gold: int, group: str | None = None
) -> MultipleChoice:
    """Multiple choice that the model answers with the letter of a choice.

    The letter stands after its choice, without a space before it, and the answer of a conversation is the letter alone.
    So the letters of prompt and answer are the same token, which small models need.

    Args:
        name: See `MultipleChoice`.
        question: The question.
        letters: The letter of each choice.
        choices: The choices.
        gold: The place of the right one.
        group: See `MultipleChoice`.
    """
    listed = "".join(f"- {choice}={letter}\n" for letter, choice in zip(letters, choices, strict=True))
    asked = f"Question: {question}\n{listed}"
    content = f"{asked}\nAnswer with the letter of the right choice only."
    return MultipleChoice(
        name, Prompt(({"role": "user", "content": content},), f"{asked}Answer:"), tuple(letters), gold, group
    )


def conversation(example: MultipleChoice | OpenQuestion | GivenReply) -> list[Message]:
    """The example with its right answer, as a conversation to finetune on."""
    match example:
        case MultipleChoice():
            content: Any = example.answers[example.gold]
        case OpenQuestion():
            content = list(example.solution)
        case GivenReply():
            content = example.answer
    return [*example.prompt.messages, {"role": "assistant", "content": content}]
