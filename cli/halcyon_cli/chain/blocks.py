"""The parts of a report card, which do not depend on its file format."""

from __future__ import annotations

from dataclasses import dataclass

from halcyon.telemetry.history.reading import History


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table. A column whose title begins with # is aligned to the right."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Curves:
    """The curves of a stage: a picture in HTML, lines of text in Markdown."""

    history: History


@dataclass(frozen=True)
class Sample:
    """An answer of the model.

    Attributes:
        title: The stage, the task, and how good the answer is.
        prompt: The question.
        answer: The answer.
    """

    title: str
    prompt: str
    answer: str


Block = Heading | Paragraph | Facts | Table | Curves | Sample


@dataclass(frozen=True)
class Card:
    """A report card.

    Attributes:
        title: Its title.
        blocks: Its content, from top to bottom.
    """

    title: str
    blocks: tuple[Block, ...]
