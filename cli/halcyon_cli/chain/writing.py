"""How a report card is written as Markdown, as HTML and as JSON.

Markdown has no pictures: a curve is a line of small bars, which every reader of Markdown shows.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from halcyon.telemetry.history.reading import History
from halcyon_cli.chain.reading import Chain
from halcyon_cli.chain.stage import Stage, chip_hours_of, cost_of, seconds_of
from halcyon_cli.curves import TITLES, curves_in_page
from halcyon_cli.history_report import series
from halcyon_cli.history_view import WRITER_FIELDS
from halcyon_cli.markdown import html, table, text
from halcyon_cli.page import whole_page
from halcyon_cli.status_view import sparkline

_WIDTH = 60
_VALUES = (
    "run",
    "root",
    "objective",
    "model",
    "parameters",
    "after",
    "first_step",
    "last_step",
    "tokens",
    "chip_hours",
    "validation",
    "validation_rewards",
    "averages",
)
"""Values of a stage that its JSON has as they are."""


@dataclass(frozen=True)
class Card:
    """A report card.

    Attributes:
        title: Its title.
        parts: Its content, from top to bottom: Markdown, and histories whose curves are shown.
    """

    title: str
    parts: tuple[str | History, ...]


def as_markdown(card: Card) -> str:
    """The text of the Markdown file."""
    parts = (part if isinstance(part, str) else _bars(part) for part in card.parts)
    return f"# {text(card.title)}\n\n{''.join(parts)}"


def _bars(history: History) -> str:
    lines = ((title, series(history.steps, name)[1]) for name, title in TITLES.items())
    return table((title, sparkline(values, _WIDTH)) for title, values in lines if values)


def as_html(card: Card) -> str:
    """The text of the HTML file."""
    return whole_page(
        card.title, (html(part) if isinstance(part, str) else curves_in_page([part]) for part in card.parts)
    )


def json_document(chain: Chain, price: float | None) -> dict[str, Any]:
    """The chain as JSON, for programs."""
    return {
        "stages": [_stage_document(stage, price) for stage in chain.stages],
        "seconds": seconds_of(chain.stages).document(),
        "chipHours": chip_hours_of(chain.stages),
        "cost": cost_of(chain.stages, price),
        "missing": chain.notes,
    }


def _stage_document(stage: Stage, price: float | None) -> dict[str, Any]:
    return {to_camel(name): getattr(stage, name) for name in _VALUES} | {
        "from": stage.origin and asdict(stage.origin),
        "complete": stage.history.complete if stage.history.groups else None,
        "sources": _rows(stage.sources),
        "place": {name: value for name, value in stage.place.items() if name not in WRITER_FIELDS},
        "cost": stage.cost(price),
        "seconds": stage.history.seconds.document(),
        "tasks": {name: {"step": step, **found.document()} for name, (step, found) in stage.last_results.items()},
        "samples": [one.document() for _, samples in stage.last_samples.values() for one in samples],
    }


def _rows(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [{to_camel(name): value for name, value in asdict(row).items()} for row in rows]
