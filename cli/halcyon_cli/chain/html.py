"""A report card as one HTML file without scripts and without requests: it can be mailed, archived and opened
anywhere.
"""

from __future__ import annotations

from html import escape

from halcyon_cli.chain.blocks import Block, Card, Curves, Facts, Heading, Paragraph, Sample, Table
from halcyon_cli.curves import draw_curves
from halcyon_cli.page import STYLE, inline, table

_MORE_STYLE = """
pre { background: #f5f5f5; padding: 0.6rem; white-space: pre-wrap; overflow-wrap: anywhere }
blockquote { margin: 0.3rem 0; padding-left: 0.8rem; border-left: 3px solid #ccc; white-space: pre-wrap; overflow-wrap: anywhere }
.wide { overflow-x: auto } figure { margin: 0 }
"""


def html(card: Card) -> str:
    """The text of the HTML file.

    Raises:
        Rejected: matplotlib is not installed.
    """
    title = escape(card.title)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}{_MORE_STYLE}</style>'
    body = "\n".join(_block(block) for block in card.blocks)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n<h1>{title}</h1>\n{body}\n</body></html>\n'


def _block(block: Block) -> str:
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
            return f"<figure>{inline(draw_curves([block.history]))}</figure>"
        case Sample():
            title, prompt, answer = (escape(text) for text in (block.title, block.prompt, block.answer))
            return f"<h3>{title}</h3><blockquote>{prompt}</blockquote><pre>{answer}</pre>"
