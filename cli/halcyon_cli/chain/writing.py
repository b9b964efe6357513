"""The parts of a report card, and how they are written as Markdown, as HTML and as JSON.

The HTML file makes no requests: it can be mailed, archived and opened anywhere. Markdown has no pictures: a curve is a
line of small bars, which every reader of Markdown shows.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from pydantic.alias_generators import to_camel

from halcyon.commands.views.examples import SAFE
from halcyon.telemetry.history.reading import History
from halcyon_cli.chain.original import ROWS
from halcyon_cli.chain.reading import Chain
from halcyon_cli.chain.stage import Stage, cost_of, seconds_of
from halcyon_cli.curves import curves_in_page
from halcyon_cli.history_report import series
from halcyon_cli.page import table, whole_page
from halcyon_cli.status_view import sparkline

_WIDTH = 60
_CURVES = (
    ("loss", "loss"),
    ("gradientNorm", "gradient norm"),
    ("learningRate", "learning rate"),
    ("tokensPerSecond", "tokens per second"),
)
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~"})
_MORE_STYLE = """
pre { background: #f5f5f5; padding: 0.6rem; white-space: pre-wrap; overflow-wrap: anywhere }
blockquote {
  margin: 0.3rem 0; padding-left: 0.8rem; border-left: 3px solid #ccc; white-space: pre-wrap; overflow-wrap: anywhere
}
.wide { overflow-x: auto }
"""


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


def as_markdown(card: Card) -> str:
    """The text of the Markdown file."""
    parts = [f"# {_text(card.title)}", *(_block_as_markdown(block) for block in card.blocks)]
    return "\n\n".join(parts) + "\n"


def _block_as_markdown(block: Block) -> str:
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
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return f"{fence}text\n{text.translate(SAFE)}\n{fence}"


def as_html(card: Card) -> str:
    """The text of the HTML file.

    Raises:
        Rejected: matplotlib is not installed.
    """
    return whole_page(card.title, map(_block_as_html, card.blocks), _MORE_STYLE)


def _block_as_html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h2>{escape(block.text)}</h2>"
        case Paragraph():
            return f"<p>{escape(block.text)}</p>"
        case Facts():
            return table((), block.rows)
        case Table():
            return f'<div class="wide">{table(block.titles, block.rows)}</div>'
        case Curves():
            return curves_in_page([block.history])
        case Sample():
            title, prompt, answer = (escape(text) for text in (block.title, block.prompt, block.answer))
            return f"<h3>{title}</h3><blockquote>{prompt}</blockquote><pre>{answer}</pre>"


def json_document(chain: Chain, price: float | None) -> dict[str, Any]:
    """The chain as JSON, for programs."""
    return {
        "stages": [_stage_document(stage, price) for stage in chain.stages],
        "seconds": seconds_of(chain.stages).document(),
        "chipHours": math.fsum(stage.chip_hours or 0.0 for stage in chain.stages),
        "cost": cost_of(chain.stages, price),
        "original": [{to_camel(name): value for name, value in asdict(row).items()} for row in ROWS],
        "missing": list(chain.notes),
    }


def _stage_document(stage: Stage, price: float | None) -> dict[str, Any]:
    origin = stage.origin
    return {
        "run": stage.run,
        "root": stage.root,
        "objective": stage.objective or None,
        "model": stage.model or None,
        "parameters": stage.parameters,
        "from": None if origin is None else {"run": origin.run, "root": origin.root},
        "after": stage.after,
        "firstStep": stage.first_step,
        "lastStep": stage.last_step,
        "complete": stage.history.complete if stage.history is not None else None,
        "tokens": stage.tokens,
        "sources": [
            {
                "name": one.name,
                "share": one.share,
                "tokens": one.tokens,
                "epochs": one.epochs,
                "heldOutSequences": one.held_out,
            }
            for one in stage.sources
        ],
        "place": {
            name: value for name, value in stage.place.items() if name not in ("event", "time", "attempt", "restart")
        },
        "chipHours": stage.chip_hours,
        "cost": stage.cost(price),
        "seconds": stage.seconds.document(),
        "heldOut": [{"step": step, "loss": loss, "bitsPerByte": bits} for step, loss, bits in stage.held_out],
        "heldOutRewards": [{"step": step, "reward": reward} for step, reward in stage.held_out_rewards],
        "averages": {name: {"step": step, "value": value} for name, (step, value) in stage.averages.items()},
        "tasks": {name: {"step": step, **found.document()} for name, (step, found) in stage.last_results.items()},
        "samples": [one.document() for _, samples in stage.last_samples.values() for one in samples],
        "rollouts": [asdict(one) for one in stage.rollouts],
    }
