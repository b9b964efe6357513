"""A report card as Markdown.

It has no pictures: a curve is a line of small bars, which every reader of Markdown shows. Pure.
"""

from __future__ import annotations

from halcyon.commands.views.examples import SAFE
from halcyon_cli.chain.blocks import Block, Card, Curves, Facts, Heading, Paragraph, Sample, Table
from halcyon_cli.history_report import series
from halcyon_cli.status_view import sparkline

_WIDTH = 60
_CURVES = (
    ("loss", "loss"),
    ("gradientNorm", "gradient norm"),
    ("learningRate", "learning rate"),
    ("tokensPerSecond", "tokens per second"),
)
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~"})


def markdown(card: Card) -> str:
    """The text of the Markdown file."""
    parts = [f"# {_text(card.title)}", *(_block(block) for block in card.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"## {_text(block.text)}"
        case Paragraph():
            return _text(block.text)
        case Facts():
            return _table(("", ""), block.rows)
        case Table():
            return _table(block.titles, block.rows)
        case Curves():
            lines = [(title, series(block.history.steps, name)[1]) for name, title in _CURVES]
            return _table(("", ""), tuple((title, sparkline(values, _WIDTH)) for title, values in lines if values))
        case Sample():
            return f"**{_text(block.title)}**\n\n{_quoted(block.prompt)}\n\n{_fenced(block.answer)}"


def _table(titles: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    head = "| " + " | ".join(_text(title.removeprefix("#")) for title in titles) + " |"
    rule = "|" + "|".join("---:" if title.startswith("#") else "---" for title in titles) + "|"
    return "\n".join([head, rule, *("| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows)])


def _text(text: str) -> str:
    """Text on one line, in which nothing is markup or controls a terminal."""
    return " ".join(text.split()).translate(SAFE).translate(_SPECIAL)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line.translate(SAFE).translate(_SPECIAL)}" for line in text.splitlines() or [""])


def _fenced(text: str) -> str:
    """A block of code whose fence is longer than any in the text: a model may write what it likes."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text.translate(SAFE)}\n{fence}"


def _longest_run(text: str) -> int:
    longest = present = 0
    for character in text:
        present = present + 1 if character == "`" else 0
        longest = max(longest, present)
    return longest
