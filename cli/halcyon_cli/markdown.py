"""Reports as Markdown, and the HTML that is made from it. Pure.

Everything that a report shows goes through `text`, `line` or `fenced`: nothing in a text of a stranger is markup or
controls a terminal.
"""

import re
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt
from markupsafe import Markup

from halcyon_api.printable import printable

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~&"})


def text(text: object) -> str:
    """Text of a cell or of a title, on one line."""
    return printable(" ".join(str(text).split())).translate(_SPECIAL)


def escaped(value: object) -> Markup:
    """A value that a template of Markdown shows: what is no Markdown yet becomes text on one line."""
    return value if isinstance(value, Markup) else Markup(text(value))  # noqa: S704 - no sign of markup is left in it


def line(text: str) -> str:
    """A line of a paragraph. It keeps its indentation, and begins no list, no title and no block of code."""
    shown = printable(text.expandtabs())
    words = shown.strip().translate(_SPECIAL)
    indent = "\xa0" * (len(shown) - len(shown.lstrip()))
    return indent + re.sub(r"^(\d*)([-+=.:)])", r"\1\\\2", words) or "\xa0"


def table(rows: Iterable[Sequence[object]], *titles: str) -> str:
    """A table; a column whose title begins with # is aligned to the right. Without titles: names with their values."""
    titles = titles or ("", "")
    rule = "|".join("---:" if title.startswith("#") else "---" for title in titles)
    head, *body = (
        f"| {' | '.join(map(text, row))} |" for row in ([title.removeprefix("#") for title in titles], *rows)
    )
    return "\n".join((head, f"|{rule}|", *body))


def quoted(text: str) -> str:
    """A text of several lines, as a quotation."""
    return "\n".join(f"> {line(one)}" for one in text.splitlines() or [""])


def fenced(text: str) -> str:
    """A block of code whose fence is longer than any in the text: a model may write what it likes."""
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"


def html(*parts: str) -> str:
    """Blocks of Markdown as HTML; HTML in them stays text."""
    return MarkdownIt("commonmark", {"html": False}).enable("table").render("\n\n".join(parts))
