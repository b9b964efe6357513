"""Examples of benchmarks: what a model is asked, what decides whether its answer is right, and its answer. Pure."""

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
        images: Images before the text of the last message: the bytes of files.
    """

    messages: tuple[Message, ...]
    plain: str
    stop: tuple[str, ...] = ()
    images: tuple[bytes, ...] = ()


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

        facts: What else decides whether an answer is right, by name.
    """

    name: str
    prompt: Prompt
    reference: str
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


@dataclass(frozen=True)
class Sound:
    """A sound that the model writes down.

    Attributes:
        name: See `MultipleChoice`.
        content: The bytes of its file.
        text: What is said.
        language: As ``en``. None: the model is not told.
    """

    name: str
    content: bytes
    text: str
    language: str | None = None


CoreKind = Literal["multiple_choice", "schema", "language_modeling"]
"""See `halcyon.evals.core`."""


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


Example = MultipleChoice | OpenQuestion | GivenReply | CoreExample | Sound


@dataclass(frozen=True)
class Answer:
    """How a model did on an example.

    Attributes:
        name: The name of the example.
        is_right: Whether its answer is right. None: there are no right answers.
        facts: What is kept besides: the answer, log-likelihoods, the outcome of a program.
        group: Part of the benchmark that the example belongs to.
        nats: Negative log-likelihood of a given answer.
        size_bytes: Bytes of that answer.
        rights: Whether each of several answers to the question is right; empty for one answer.
        errors: Words that are heard wrong.
        words: Words that are said.
    """

    name: str
    is_right: bool | None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    group: str | None = None
    nats: float = 0.0
    size_bytes: int = 0
    rights: tuple[bool, ...] = ()
    errors: int = 0
    words: int = 0

    @property
    def share(self) -> float | None:
        """Share of right answers to the example. None: there are no right answers."""
        if self.rights:
            return sum(self.rights) / len(self.rights)
        return None if self.is_right is None else float(self.is_right)

    def document(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        rights = list(self.rights) or None
        known = {"example": self.name, "group": self.group, "right": self.is_right, "rights": rights}
        return {name: value for name, value in known.items() if value is not None} | dict(self.facts)


def letter_choice(
    name: str,
    question: str,
    letters: Sequence[str],
    choices: Sequence[str],
    gold: int,
    group: str | None = None,
    images: tuple[bytes, ...] = (),
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
        images: See `Prompt`.
    """
    listed = "".join(f"- {choice}={letter}\n" for letter, choice in zip(letters, choices, strict=True))
    asked = f"Question: {question}\n{listed}"
    content = f"{asked}\nAnswer with the letter of the right choice only."
    prompt = Prompt(({"role": "user", "content": content},), f"{asked}Answer:", images=images)
    return MultipleChoice(name, prompt, tuple(letters), gold, group)
